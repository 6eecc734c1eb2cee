"""Every Triton kernel by Triton's interpreter, on CPU tensors: values, gradients, strides, poison, NaN and inf.

tests/test_triton.py runs this file in processes of their own with TRITON_INTERPRET=1, which Triton reads when it is
imported. The interpreter takes milliseconds for each program of a launch, so: one draw of a case, no cases of hundreds
of tokens, which are more programs of the same code, and the half types on every third case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from lynx_engine import cuda, ops, registry
from lynx_engine.cases import Case, Suite
from lynx_engine.device import narrow
from lynx_engine.errors import LynxError
from lynx_engine.yardstick import (
    Arguments,
    assert_same_non_finite,
    draw,
    map_floats,
    output_and_gradients,
    poisoned_memory,
    stacked,
    strided,
    yardstick,
)

BACKEND = "cuda_triton"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SUITES = [suite for suite in ops.suites() if any(b.name == BACKEND for b in registry.ops()[suite.op].backends)]

(ROPE, APPEND) = (suite for suite in SUITES if suite.op in ("rope", "rope_append_kv"))


def small_cases(suite: Suite) -> list[Case]:
    return [case for case in suite.cases if not case.bench and not re.search(r"[TS]=(63|301|901)\b", case.name)]


def parameters(cases: Callable[[Suite], list[Case]]) -> list[object]:
    return [
        pytest.param(suite, case, dtype, id=f"{suite.op}-{case.name}-{str(dtype)[6:]}")
        for suite in SUITES
        for index, case in enumerate(cases(suite))
        for dtype in (DTYPES if index % 3 == 0 else DTYPES[:1])
    ]


def middle(suite: Suite) -> list[Case]:
    cases = sorted(small_cases(suite), key=lambda case: case.flops)
    return [cases[len(cases) // 2]]


ALL, MIDDLE = parameters(small_cases), parameters(middle)


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    with poisoned_memory():
        yield


def on_triton(suite: Suite) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """The public function on Triton; where it refuses, it says why, and the test is over."""

    def function(**arguments: Any) -> Tensor | tuple[Tensor, ...]:
        try:
            return suite.function(**arguments, backend=BACKEND)
        except LynxError as error:
            if "needs head_dim <= 128" not in str(error):
                raise
            pytest.skip(str(error))

    return function


@pytest.mark.parametrize(("suite", "case", "dtype"), ALL)
def test_values_and_gradients(suite: Suite, case: Case, dtype: torch.dtype) -> None:
    actual = output_and_gradients(on_triton(suite), draw(case, dtype, 0), suite.differentiable)
    yardstick(suite, case, dtype).check(stacked([actual]), f"{suite.op} on {BACKEND}")


@pytest.mark.parametrize(("suite", "case", "dtype"), MIDDLE)
def test_strides_do_not_matter(suite: Suite, case: Case, dtype: torch.dtype) -> None:
    if not suite.differentiable:  # it writes into its arguments, and may refuse to do so across gaps
        return
    arguments = draw(case, dtype, 0)
    dense = output_and_gradients(on_triton(suite), arguments, suite.differentiable)
    gappy = output_and_gradients(on_triton(suite), map_floats(arguments, strided), suite.differentiable)
    assert all(torch.equal(gappy[name], dense[name]) for name in dense)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(("suite", "case", "dtype"), MIDDLE)
def test_non_finite_numbers_spread_as_in_the_reference(
    suite: Suite, case: Case, dtype: torch.dtype, value: float
) -> None:
    def spoiled(argument: str) -> Arguments:
        arguments = draw(case, dtype, 0)
        flat = arguments[argument].view(-1)
        flat[flat.numel() // 3] = value
        return arguments

    for argument, x in draw(case, dtype, 0).items():
        if isinstance(x, Tensor) and x.is_floating_point():
            actual = output_and_gradients(on_triton(suite), spoiled(argument), suite.differentiable)
            expected = output_and_gradients(suite.reference, spoiled(argument), suite.differentiable)
            for name in actual:
                assert_same_non_finite(actual[name], expected[name], f"{argument} holds {value}: {name}")


@pytest.mark.parametrize("case", small_cases(ROPE)[:3], ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rope_has_every_bit_of_the_reference_in_place_too(case: Case, dtype: torch.dtype) -> None:
    """Three roundings at fixed places leave no freedom."""
    arguments, expected = draw(case, dtype, 0), ROPE.reference(**draw(case, dtype, 0))
    assert all(map(torch.equal, ops.rope(**arguments, backend=BACKEND), expected))
    ops.rope(**arguments, inplace=True, backend=BACKEND)
    assert torch.equal(arguments["q"], expected[0]) and torch.equal(arguments["k"], expected[1])


@pytest.mark.parametrize("case", small_cases(APPEND)[:6], ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_caches_hold_what_rope_gives_and_nothing_else_changes(case: Case, dtype: torch.dtype) -> None:
    arguments, expected = draw(case, dtype, 0), draw(case, dtype, 0)
    q = ops.rope_append_kv(**arguments, backend=BACKEND)
    assert torch.equal(q, APPEND.reference(**expected))
    for name, tensor in expected.items():
        assert torch.equal(arguments[name], tensor), name


def test_places_outside_of_a_cache_are_not_written() -> None:
    (case,) = (case for case in small_cases(APPEND) if case.name.startswith("B=2 S=5") and case.name.endswith("dense"))
    arguments = draw(case, torch.float32, 0)
    memory = {name: torch.full((4, *arguments[name].shape[1:]), torch.nan) for name in ("k_cache", "v_cache")}
    arguments |= {name: cache[1:3] for name, cache in memory.items()}
    arguments["starts"] = torch.tensor([-3, arguments["k_cache"].shape[1] - 2])
    ops.rope_append_kv(**arguments, backend=BACKEND)
    for cache in memory.values():
        written = ~cache.isnan().flatten(2).all(-1)
        assert written.nonzero().tolist() == [[1, 0], [1, 1], [2, 12], [2, 13]]


def test_only_a_name_brings_the_interpreter() -> None:
    (suite,) = (suite for suite in SUITES if suite.op == "swiglu")
    op, arguments = registry.ops()["swiglu"], draw(small_cases(suite)[0], torch.float32, 0).values()
    assert cuda.machine_refusals() == ()
    assert op.choose("auto", *arguments).name != BACKEND
    assert op.choose(BACKEND, *arguments).name == BACKEND
    assert "cuda_triton     refused: Triton's interpreter runs only by name" in op.why(*arguments)
    with pytest.raises(LynxError, match=r"cuda_triton: needs bfloat16 or float16 or float32 throughout \(got float64"):
        ops.swiglu(*(x.double() for x in arguments), backend=BACKEND)


@triton.jit
def narrow_all(x, out, N: tl.constexpr):
    n = tl.arange(0, N)
    tl.store(out + n, narrow(tl.load(x + n), out.dtype.element_ty))


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_are_rounded_as_torch_does(dtype: torch.dtype) -> None:
    """Ties, carries into the exponent, numbers that become infinite, denormal ones, NaN."""
    x = torch.tensor([1.00390625, 1.01171875, 1.9999, 3.4e38, -3.39e38, 1e-40, -0.0, 65520, 3e-8, torch.inf, torch.nan])
    x = torch.cat((x, torch.randn(1024 - len(x), generator=torch.Generator().manual_seed(0))))
    out = torch.empty(1024, dtype=dtype)
    narrow_all[(1,)](x, out, N=1024)
    assert torch.equal(out.nan_to_num(7), x.to(dtype).nan_to_num(7))
    assert torch.equal(out.isnan(), x.isnan())
