"""Every op is a real op to torch: opcheck, gradcheck, torch.compile, torch.export, meta tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from lynx_engine import ops
from lynx_engine.cases import Case, Suite
from lynx_engine.yardstick import draw, map_floats, named_outputs, output_and_gradients


@functools.cache
def small_case(suite: Suite) -> Case:
    """The smallest case with something in it."""
    tensors = {c: tensors_of(draw(c, torch.float64, 0)).values() for c in suite.cases if not c.bench}
    filled = [c for c in tensors if all(t.numel() for t in tensors[c])]
    return min(filled, key=lambda c: sum(t.numel() for t in tensors[c]))


def tensors_of(arguments: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in arguments.items() if isinstance(value, Tensor)}


SUITES = [pytest.param(suite, id=f"{i}-{suite.op}") for i, suite in enumerate(ops.suites())]
WITH_GRADIENTS = [param for param in SUITES if param.values[0].differentiable]


class Recorder(TorchDispatchMode):
    """Remembers every call of an op of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "lynx":
            self.calls.append((func, tree_map_only(Tensor, Tensor.detach, args)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64], ids=["float32", "bfloat16", "float64"]
)
def test_opcheck(suite: Suite, dtype: torch.dtype) -> None:
    """Schema, shape function and dispatch of every torch op that a forward and a backward call go through; in float64,
    of their references."""
    with Recorder() as recorder:
        output_and_gradients(suite.function, draw(small_case(suite), dtype, 0), suite.differentiable)
    names = {func.__name__ for func, _ in recorder.calls}
    assert any("backward" not in name for name in names)
    assert any("backward" in name for name in names) == bool(suite.differentiable)
    for func, args in recorder.calls:
        torch.library.opcheck(func, args)


@pytest.mark.parametrize("suite", WITH_GRADIENTS)
def test_gradcheck(suite: Suite) -> None:
    if suite.straight_through:
        return
    arguments = draw(small_case(suite), torch.float64, 0)
    leaves = [arguments[name].requires_grad_() for name in suite.differentiable]

    def function(*values: Tensor) -> Tensor | tuple[Tensor, ...]:
        return suite.function(**{**arguments, **dict(zip(suite.differentiable, values, strict=True))})

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


def shifted(suite: Suite) -> Callable[..., tuple[Tensor, ...]]:
    """The op between two others, as in a model."""

    def function(**arguments: Any) -> tuple[Tensor, ...]:
        first = next(iter(suite.differentiable or tensors_of(arguments)))
        outputs = named_outputs(suite.function(**{**arguments, first: arguments[first] * 2}))
        return tuple(output + 1 for output in outputs.values())

    return function


@pytest.mark.parametrize("suite", SUITES)
def test_compiles_whole_with_gradients(suite: Suite) -> None:
    torch._dynamo.reset()
    arguments = draw(small_case(suite), torch.float32, 0)
    compiled = torch.compile(shifted(suite), fullgraph=True, backend="aot_eager")
    actual = output_and_gradients(compiled, arguments, suite.differentiable)
    expected = output_and_gradients(shifted(suite), arguments, suite.differentiable)
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


@pytest.mark.parametrize("suite", SUITES)
def test_exports(suite: Suite) -> None:
    arguments = draw(small_case(suite), torch.float32, 0)

    class Module(torch.nn.Module):
        def forward(self, **tensors: Tensor) -> tuple[Tensor, ...]:
            return shifted(suite)(**{**arguments, **tensors})

    program = torch.export.export(Module(), (), kwargs=tensors_of(arguments))
    assert any(f"lynx.{suite.op}" in str(node.target) for node in program.graph.nodes)
    exported = program.module()(**tensors_of(draw(small_case(suite), torch.float32, 0)))
    assert all(map(torch.equal, exported, shifted(suite)(**arguments)))


def steps(tensor: Tensor) -> list[int]:
    """The strides that mean something: of axes with a next element."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1 and tensor.numel()]


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_meta_tensors_give_shape_dtype_and_strides(suite: Suite, dtype: torch.dtype) -> None:
    for case in suite.cases:
        if case.bench:
            continue
        arguments = draw(case, dtype, 0)
        real = named_outputs(suite.function(**arguments))
        on_meta = {name: t.to("meta") for name, t in tensors_of(arguments).items()}
        fakes = named_outputs(suite.function(**{**arguments, **on_meta}))
        for name, fake in fakes.items():
            output = real[name]
            assert fake.device.type == "meta"
            assert (fake.shape, fake.dtype, steps(fake)) == (output.shape, output.dtype, steps(output)), case.name


@pytest.mark.parametrize("suite", SUITES)
def test_half_and_double_run_on_the_reference(suite: Suite) -> None:
    """float16 and float64 have no kernel: "auto" takes the reference, in its arithmetic."""
    for dtype in (torch.float16, torch.float64):
        arguments = [
            map_floats(draw(small_case(suite), torch.float32, 0), lambda t, to=dtype: t.to(to)) for _ in range(2)
        ]
        outputs = named_outputs(suite.function(**arguments[0])), named_outputs(suite.reference(**arguments[1]))
        assert all(map(torch.equal, *(named.values() for named in outputs)))
