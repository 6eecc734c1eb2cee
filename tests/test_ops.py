"""Every op x backend x case x dtype: values and gradients, on poisoned memory, at odd sizes, strided and empty.

The registry and kernels/*/cases.py say what there is: a new op or backend is tested without a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lynx_engine import native, ops, registry
from lynx_engine.cases import Case, Suite
from lynx_engine.errors import LynxError
from lynx_engine.yardstick import (
    SEEDS,
    assert_same_non_finite,
    draw,
    forward_only,
    map_floats,
    output_and_gradients,
    poisoned_memory,
    stacked,
    strided,
    yardstick,
)

ROOT = Path(__file__).resolve().parents[1]
SUITES = ops.suites()


def cpu_backends(suite: Suite) -> list[registry.Backend]:
    """Those that take CPU tensors; tests/test_triton.py has the others."""
    return [b for b in registry.ops()[suite.op].backends if b.name != "cuda_triton"]


CASES = [
    pytest.param(suite, backend.name, case, dtype, id=f"{suite.op}-{backend.name}-{case.name}-{str(dtype)[6:]}")
    for suite in SUITES
    for backend in cpu_backends(suite)
    for case in suite.cases
    if not case.bench
    for dtype in suite.dtypes
]


def middle_case(suite: Suite) -> Case:
    """One case of some size for the checks that need not see every size."""
    tested = [case for case in suite.cases if not case.bench]
    return sorted(tested, key=lambda case: case.flops)[len(tested) // 2]


MIDDLE = [
    pytest.param(
        suite, backend.name, middle_case(suite), dtype, id=f"{index}-{suite.op}-{backend.name}-{str(dtype)[6:]}"
    )
    for index, suite in enumerate(SUITES)
    for backend in cpu_backends(suite)
    if backend.name != registry.REFERENCE
    for dtype in suite.dtypes
]


@pytest.fixture(autouse=True, scope="module")
def emulated_amx() -> Iterator[None]:
    """`cpu_amx` is tested on every AVX-512 machine: on tiles in hardware, or on emulated ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LYNX_EMULATE_AMX", "1")
        registry.refresh()
        yield
    registry.refresh()


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    with poisoned_memory():
        yield


def on(suite: Suite, backend: str) -> Callable[..., Tensor]:
    """The public function on one backend; skips where this machine cannot run it."""
    (found,) = (b for b in registry.ops()[suite.op].backends if b.name == backend)
    if found.machine_refusals():
        pytest.skip("; ".join(found.machine_refusals()))
    return partial(suite.function, backend=backend)


def takes(suite: Suite, backend: str, dtype: torch.dtype) -> bool:
    """Whether a backend has a kernel for `dtype` (the reference takes all)."""
    entry = native.kernels(suite.op).get(backend)
    return entry is None or dtype in entry[1]


@pytest.mark.parametrize(("suite", "backend", "case", "dtype"), CASES)
def test_values_and_gradients(suite: Suite, backend: str, case: Case, dtype: torch.dtype) -> None:
    function = on(suite, backend)
    if not takes(suite, backend, dtype):
        with pytest.raises(LynxError, match=rf"{suite.op}: {backend}: needs \w+ .*\(got .*{str(dtype)[6:]}"):
            function(**draw(case, dtype, 0))
        return
    actual = stacked([output_and_gradients(function, draw(case, dtype, seed), suite.differentiable) for seed in SEEDS])
    yardstick(suite, case, dtype).check(actual, f"{suite.op} on {backend}")
    without_autograd = stacked([forward_only(function, draw(case, dtype, seed)) for seed in SEEDS])
    assert all(torch.equal(output, actual[name]) for name, output in without_autograd.items())


@pytest.mark.parametrize(("suite", "backend", "case", "dtype"), CASES)
def test_strides_do_not_matter(suite: Suite, backend: str, case: Case, dtype: torch.dtype) -> None:
    function = on(suite, backend)
    if backend == registry.REFERENCE or not takes(suite, backend, dtype):  # torch's own products do depend on strides
        return
    if not suite.differentiable:  # it writes into its arguments, and may refuse to do so across gaps
        return
    arguments = draw(case, dtype, 0)
    dense = output_and_gradients(function, arguments, suite.differentiable)
    gappy = output_and_gradients(function, map_floats(arguments, strided), suite.differentiable)
    assert torch.equal(dense["output"], gappy["output"])
    yardstick(suite, case, dtype).check(stacked([gappy]), f"{suite.op} on {backend}, strided")


@pytest.mark.parametrize(("suite", "backend", "case", "dtype"), CASES)
def test_thread_count_does_not_matter(suite: Suite, backend: str, case: Case, dtype: torch.dtype) -> None:
    function = on(suite, backend)
    compiled = native.module()
    if compiled is None or backend == registry.REFERENCE or not takes(suite, backend, dtype):
        return
    before = compiled.num_threads()
    arguments = draw(case, dtype, 0)
    runs = []
    for threads in (1, 2, 3):
        compiled.set_num_threads(threads)
        runs.append(output_and_gradients(function, arguments, suite.differentiable))
    compiled.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(run[name], runs[0][name]) for name in run)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("suite", "backend", "case", "dtype"), MIDDLE)
def test_non_finite_numbers_spread_as_in_the_reference(
    suite: Suite, backend: str, case: Case, dtype: torch.dtype, value: float
) -> None:
    function = on(suite, backend)
    if not takes(suite, backend, dtype):
        return
    for argument in [
        name for name, x in draw(case, dtype, 0).items() if isinstance(x, Tensor) and x.is_floating_point()
    ]:
        arguments = draw(case, dtype, 0)
        flat = arguments[argument].view(-1)
        flat[flat.numel() // 3] = value
        actual = output_and_gradients(function, arguments, suite.differentiable)
        expected = output_and_gradients(suite.reference, arguments, suite.differentiable)
        for name in actual:
            assert_same_non_finite(actual[name], expected[name], f"{argument} holds {value}: {name}")


def test_every_op_folder_has_cases_and_exports_what_they_test() -> None:
    folders = {path.parent.name for path in (ROOT / "kernels").glob("*/op.py")}
    # What is exported and is no op (a packing) has a test of its own.
    assert folders == set(ops.OP_FOLDERS) == {ops.folder_of(name) for name in ops.__all__}
    assert {suite.op for suite in SUITES} == set(ops.__all__) & set(registry.ops())
    for suite in SUITES:
        assert getattr(ops, suite.op) is suite.function
        assert any(not case.bench for case in suite.cases)
    with pytest.raises(AttributeError, match="has no op 'no_such_op'; ops: adapter_mlp"):
        _ = ops.no_such_op


def test_every_compiled_file_is_a_backend_of_an_op_of_its_folder() -> None:
    if native.module() is None:
        pytest.skip("lynx_engine._C is not built")
    offered: dict[str, set[str]] = {}
    for name in {suite.op for suite in SUITES}:
        offered.setdefault(ops.folder_of(name), set()).update(native.kernels(name))
    for folder, backends in offered.items():
        assert {path.stem for path in (ROOT / "kernels" / folder).glob("cpu_*.cpp")} <= backends, folder
