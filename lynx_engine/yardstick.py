"""How tests and benchmarks judge a kernel: against the float64 reference, with plain torch as the yardstick.

An output may be off by twice the worst error of plain torch in the same dtype, plus one unit in the last place. Plain
torch has other kernels on other machines, and its sums can be lucky: its error is the worst over several draws, and at
least what moving every input by half a unit of float32 does to the truth.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import native
from .cases import Case, Suite

Arguments = dict[str, Any]
Output = Tensor | tuple[Tensor, ...]
SEEDS = (0, 1, 2)


def draw(case: Case, dtype: torch.dtype, seed: int) -> Arguments:
    return case.make(torch.Generator().manual_seed(seed), dtype)


def map_floats(arguments: Mapping[str, Any], change: Callable[[Tensor], Tensor]) -> Arguments:
    """The same arguments with every floating tensor changed."""
    is_float = {name: isinstance(value, Tensor) and value.is_floating_point() for name, value in arguments.items()}
    return {name: change(value) if is_float[name] else value for name, value in arguments.items()}


def strided(tensor: Tensor) -> Tensor:
    """The same values with a gap after every element and the last two axes stored the other way round."""
    swapped = tensor.transpose(-1, -2) if tensor.dim() > 1 else tensor
    room = torch.full((*swapped.shape, 2), torch.nan, dtype=tensor.dtype)
    room[..., 0] = swapped
    view = room[..., 0]
    return view.transpose(-1, -2) if tensor.dim() > 1 else view


def named_outputs(result: Output) -> dict[str, Tensor]:
    """An op's result by name: "output", and "output 1", "output 2" where there are more."""
    outputs = (result,) if isinstance(result, Tensor) else result
    return {f"output {i}" if i else "output": output for i, output in enumerate(outputs)}


def output_and_gradients(
    function: Callable[..., Output], arguments: Arguments, differentiable: Iterable[str]
) -> dict[str, Tensor]:
    """`function`'s outputs by `named_outputs`, and the gradient of each differentiable argument under its name.

    The outputs' gradients are drawn from their shapes, so that every implementation of an op meets the same ones.
    """
    leaves = {name: arguments[name].detach().requires_grad_() for name in differentiable}
    outputs = named_outputs(function(**{**arguments, **leaves}))
    found = {name: output.detach() for name, output in outputs.items()}
    if leaves:
        generator = torch.Generator().manual_seed(99)
        dy = [torch.randn(output.shape, generator=generator).to(output.dtype) for output in outputs.values()]
        gradients = torch.autograd.grad(
            list(outputs.values()), list(leaves.values()), dy, allow_unused=True, materialize_grads=True
        )
        found |= dict(zip(leaves, gradients, strict=True))
    return found


def forward_only(function: Callable[..., Output], arguments: Arguments) -> dict[str, Tensor]:
    with torch.no_grad():
        return named_outputs(function(**arguments))


def stacked(runs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([run[name] for run in runs]) for name in runs[0]}


@contextlib.contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh tensors and kernels' scratch memory are full of NaN: what is read before it is written shows."""
    compiled = native.module()
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    if compiled is not None:
        compiled.poison_workspaces(True)
    assert torch.empty(5).isnan().all() and torch.ones(2).new_empty(5).isnan().all()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        if compiled is not None:
            compiled.poison_workspaces(False)


@dataclass(frozen=True)
class Yardstick:
    """What every draw of a case should give, and how far off it may fairly be, by name of output or gradient."""

    truth: dict[str, Tensor]  # [draws, ...], float64
    dtypes: dict[str, torch.dtype]
    fair_error: dict[str, float]

    def check(self, actual: dict[str, Tensor], what: str) -> None:
        """`actual` [draws or fewer, ...] has plain torch's dtypes and is as exact as plain torch is."""
        faults = self.faults(actual)
        assert not faults, f"{what}, {faults[0]}"

    def faults(self, actual: dict[str, Tensor], margin: float = 2.0) -> list[str]:
        """What is wrong with `actual`, by output or gradient, each with its worst coordinate; empty if nothing is.

        margin: how many times the error of plain torch is fair.
        """
        found = []
        for name, tensor in actual.items():
            truth = self.truth[name][: len(tensor)]
            if tensor.dtype != self.dtypes[name]:
                found.append(f"{name}: {tensor.dtype}, wanted {self.dtypes[name]}")
            else:
                found += [f"{name} {fault}" for fault in excess(tensor, truth, margin * self.fair_error[name])]
        return found


@functools.cache
def yardstick(
    suite: Suite,
    case: Case,
    dtype: torch.dtype,
    seeds: tuple[int, ...] = SEEDS,
    *,
    gradients: bool = True,
    wide: torch.dtype = torch.float64,
) -> Yardstick:
    """All draws of a case through the reference in `wide`, through plain torch in `dtype`, and with inputs moved."""

    def run(function: Callable[..., Output], arguments: Arguments) -> dict[str, Tensor]:
        return (
            output_and_gradients(function, arguments, suite.differentiable)
            if gradients
            else forward_only(function, arguments)
        )

    draws = [draw(case, dtype, seed) for seed in seeds]
    exact = [map_floats(arguments, lambda t: t.to(wide)) for arguments in draws]
    truth = stacked([run(suite.reference, arguments) for arguments in exact])
    moved = [map_floats(arguments, move_by_half_a_unit) for arguments in exact]
    near = stacked([run(suite.reference, arguments) for arguments in moved])
    plain = stacked([run(suite.plain, arguments) for arguments in draws])
    return Yardstick(
        truth=truth,
        dtypes={name: tensor.dtype for name, tensor in plain.items()},
        fair_error={name: max(worst(plain[name], truth[name]), worst(near[name], truth[name])) for name in truth},
    )


def move_by_half_a_unit(tensor: Tensor) -> Tensor:
    """Every number half a float32 unit in the last place up or down."""
    signs = torch.randint(0, 2, tensor.shape, generator=torch.Generator().manual_seed(tensor.numel())) * 2 - 1
    return tensor * (1 + signs * torch.finfo(torch.float32).eps / 2)


def worst(values: Tensor, truth: Tensor) -> float:
    error = (values.double() - truth).abs()
    return error.max().item() if error.numel() else 0.0


def excess(actual: Tensor, truth: Tensor, margin: float) -> list[str]:
    """The worst coordinate where |actual - truth| > margin + 1 ulp of the output, or a shape that is wrong; else []."""
    if actual.shape != truth.shape:
        return [f"has shape {list(actual.shape)}, wanted {list(truth.shape)}"]
    if actual.numel() == 0:
        return []
    error = (actual.double() - truth).abs()
    allowed = margin + torch.finfo(actual.dtype).eps * truth.abs()
    over = torch.where(error.isnan(), torch.inf, error - allowed)
    place = torch.unravel_index(over.argmax(), over.shape)
    if over[place] <= 0:
        return []
    return [
        f"at {[int(i) for i in place]}: {actual[place].item()!r}, truth {truth[place].item()!r},"
        f" error {error[place].item():.3e}, allowed {allowed[place].item():.3e}"
    ]


def assert_same_non_finite(actual: Tensor, expected: Tensor, what: str) -> None:
    """NaN, inf and -inf stand at the same places."""
    for kind, test in (("NaN", torch.isnan), ("inf", torch.isposinf), ("-inf", torch.isneginf)):
        differs = test(actual) != test(expected)
        first = differs.nonzero()[:1].tolist()
        assert not differs.any(), (
            f"{what}: {kind} differs at {first} of {list(actual.shape)} ({int(differs.sum())} places)"
        )
