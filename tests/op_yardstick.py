"""How test_ops.py judges a kernel: against the float64 reference, with plain torch as the yardstick.

An output may be off by twice the worst error of plain torch in the same dtype, plus one unit in the last place. Errors
are taken over several draws of a case, so that one lucky sum of plain torch is no verdict.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lynx_engine.cases import Case, Suite

Arguments = dict[str, Any]
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


def output_and_gradients(
    function: Callable[..., Tensor], arguments: Arguments, differentiable: Iterable[str]
) -> dict[str, Tensor]:
    """`function`'s output under "output", and the gradient of each differentiable argument under its name.

    The output's gradient is drawn from its shape, so that every implementation of an op meets the same one.
    """
    leaves = {name: arguments[name].detach().requires_grad_() for name in differentiable}
    output = function(**{**arguments, **leaves})
    dy = torch.randn(output.shape, generator=torch.Generator().manual_seed(99)).to(output.dtype)
    gradients = torch.autograd.grad(output, list(leaves.values()), dy, allow_unused=True, materialize_grads=True)
    return {"output": output.detach(), **dict(zip(leaves, gradients, strict=True))}


def forward_only(function: Callable[..., Tensor], arguments: Arguments) -> dict[str, Tensor]:
    with torch.no_grad():
        return {"output": function(**arguments)}


def stacked(runs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([run[name] for run in runs]) for name in runs[0]}


@dataclass(frozen=True)
class Yardstick:
    """What every draw of a case should give, and how far off plain torch is at worst, by name of output or gradient."""

    truth: dict[str, Tensor]  # [draws, ...], float64
    dtypes: dict[str, torch.dtype]
    plain_error: dict[str, float]

    def check(self, actual: dict[str, Tensor], what: str) -> None:
        """`actual` [draws or fewer, ...] has plain torch's dtypes and is as exact as plain torch is."""
        for name, tensor in actual.items():
            truth = self.truth[name][: len(tensor)]
            assert tensor.dtype == self.dtypes[name], f"{what}, {name}: {tensor.dtype}, wanted {self.dtypes[name]}"
            assert_close(tensor, truth, 2 * self.plain_error[name], f"{what}, {name}")


@functools.cache
def yardstick(suite: Suite, case: Case, dtype: torch.dtype) -> Yardstick:
    """All draws of a case through the float64 reference and through plain torch in `dtype`."""
    truth, plain = [], []
    for seed in SEEDS:
        arguments = draw(case, dtype, seed)
        wide = map_floats(arguments, lambda t: t.double())
        truth.append(output_and_gradients(suite.reference, wide, suite.differentiable))
        plain.append(output_and_gradients(suite.plain, arguments, suite.differentiable))
    all_truth, all_plain = stacked(truth), stacked(plain)
    errors = {name: (all_plain[name].double() - all_truth[name]).abs() for name in all_truth}
    return Yardstick(
        truth=all_truth,
        dtypes={name: tensor.dtype for name, tensor in all_plain.items()},
        plain_error={name: error.max().item() if error.numel() else 0.0 for name, error in errors.items()},
    )


def assert_close(actual: Tensor, truth: Tensor, margin: float, what: str) -> None:
    """|actual - truth| <= margin + 1 ulp of the output, everywhere; names the worst coordinate."""
    assert actual.shape == truth.shape, f"{what}: shape {list(actual.shape)}, wanted {list(truth.shape)}"
    if actual.numel() == 0:
        return
    error = (actual.double() - truth).abs()
    allowed = margin + torch.finfo(actual.dtype).eps * truth.abs()
    excess = torch.where(error.isnan(), torch.inf, error - allowed)
    worst = torch.unravel_index(excess.argmax(), excess.shape)
    where = [int(i) for i in worst]
    assert excess[worst] <= 0, (
        f"{what} at {where}: {actual[worst].item()!r}, truth {truth[worst].item()!r},"
        f" error {error[worst].item():.3e}, allowed {allowed[worst].item():.3e}"
    )


def assert_same_non_finite(actual: Tensor, expected: Tensor, what: str) -> None:
    """NaN, inf and -inf stand at the same places."""
    for kind, test in (("NaN", torch.isnan), ("inf", torch.isposinf), ("-inf", torch.isneginf)):
        differs = test(actual) != test(expected)
        first = differs.nonzero()[:1].tolist()
        assert not differs.any(), (
            f"{what}: {kind} differs at {first} of {list(actual.shape)} ({int(differs.sum())} places)"
        )
