"""What rope_append_kv leaves in the caches, rope in place, and what both refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lynx_engine import LynxError, native, ops, registry
from lynx_engine.cases import Case, Suite
from lynx_engine.yardstick import draw, strided

(ROPE, APPEND) = (suite for suite in ops.suites() if suite.op in ("rope", "rope_append_kv"))
BACKENDS = [backend.name for backend in registry.ops()["rope"].backends if backend.name != "cuda_triton"]
DTYPES = (torch.float32, torch.bfloat16)


def small_cases(suite: Suite) -> list[Case]:
    return [case for case in suite.cases if not case.bench]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    (found,) = (b for b in registry.ops()["rope"].backends if b.name == name)
    if found.machine_refusals():
        pytest.skip("; ".join(found.machine_refusals()))
    return name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", small_cases(APPEND), ids=lambda case: case.name)
def test_caches_hold_what_rope_gives_and_nothing_else_changes(backend: str, case: Case, dtype: torch.dtype) -> None:
    arguments, expected = draw(case, dtype, 0), draw(case, dtype, 0)
    q = ops.rope_append_kv(**arguments, backend=backend)
    assert torch.equal(q, APPEND.reference(**expected))
    for name, tensor in expected.items():
        assert torch.equal(arguments[name], tensor), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", small_cases(ROPE), ids=lambda case: case.name)
def test_every_bit_is_the_references(backend: str, case: Case, dtype: torch.dtype) -> None:
    """Three roundings at fixed places leave no freedom."""
    q, k = ops.rope(**draw(case, dtype, 0), backend=backend)
    q_expected, k_expected = ROPE.reference(**draw(case, dtype, 0))
    assert torch.equal(q, q_expected) and torch.equal(k, k_expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", small_cases(ROPE), ids=lambda case: case.name)
def test_in_place_gives_the_same(backend: str, case: Case, dtype: torch.dtype) -> None:
    arguments = draw(case, dtype, 0)
    expected = ops.rope(**arguments, backend=backend)
    q, k = ops.rope(**arguments, inplace=True, backend=backend)
    assert q is arguments["q"] and k is arguments["k"]
    assert torch.equal(q, expected[0]) and torch.equal(k, expected[1])


def test_a_layer_of_a_larger_cache_is_written_through_its_view(backend: str) -> None:
    (case,) = (case for case in small_cases(APPEND) if case.name.startswith("B=2 S=33") and case.name.endswith("dense"))
    arguments = draw(case, torch.float32, 0)
    memory = torch.full((3, 2, *arguments["k_cache"].shape), torch.nan)
    views = {"k_cache": memory[1, 0], "v_cache": memory[1, 1]}
    ops.rope_append_kv(**{**arguments, **views}, backend=backend)
    ops.rope_append_kv(**arguments, backend=backend)
    written = ~memory.isnan()
    assert written.sum() == 2 * arguments["k"].numel()
    assert torch.equal(memory[1, 0][written[1, 0]], arguments["k_cache"][written[1, 0]])
    assert torch.equal(memory[1, 1][written[1, 1]], arguments["v_cache"][written[1, 1]])


def dense(**changes: Any) -> dict[str, Any]:
    (case, *_) = (case for case in small_cases(APPEND) if case.name.endswith("dense"))
    return {**draw(case, torch.float32, 0), **changes}


def half(tensor: Tensor) -> Tensor:
    return tensor[..., :7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dense(starts=torch.tensor([10])), r"rope_append_kv: starts must be in \[0, 9\], got 10 at 0"),
        (dense(starts=torch.tensor([-1])), r"rope_append_kv: starts must be in \[0, 9\], got -1 at 0"),
        (dense(starts=None), "wanted either starts"),
        (dense(slots=torch.tensor([[0]])), "wanted either starts"),
        (
            {name: half(t) if name != "starts" else t for name, t in dense().items()},
            "rope_append_kv: head_dim must be even, got 7",
        ),
        (dense(k_cache=strided(dense()["k_cache"])), "cpu_avx2: needs caches with contiguous heads"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    if native.module() is None:
        pytest.skip("lynx_engine._C is not built")
    with pytest.raises(LynxError, match=message):
        ops.rope_append_kv(**arguments, backend="cpu_avx2")


def test_in_place_refuses_gradients() -> None:
    arguments = draw(small_cases(ROPE)[0], torch.float32, 0)
    arguments["q"].requires_grad_()
    with pytest.raises(LynxError, match="inplace has no gradients"):
        ops.rope(**arguments, inplace=True)


def test_compiles_whole_in_place() -> None:
    def function(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k = ops.rope(q * 2, k * 2, cos, sin, inplace=True)
        return q.sum() + k.sum()

    torch._dynamo.reset()
    arguments = draw(small_cases(ROPE)[0], torch.float32, 0)
    compiled: Callable[..., Tensor] = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(**arguments), function(**arguments))
