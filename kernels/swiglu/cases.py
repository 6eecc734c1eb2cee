"""Shapes of swiglu: Lynx's for the benchmarks, small and awkward ones for the tests."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lynx_engine.cases import ANY_DEVICE, Case, Suite

from .op import swiglu
from .reference import swiglu_reference

LYNX_N = 11008
TESTED = ((1, 64), (2, 5, 48), (63, 65), (3, 1), (17, 31), (2, 2049), (901, 33), (0, 64), (2, 0, 8))


def make(shape: tuple[int, ...], fused: bool, generator: torch.Generator, dtype: torch.dtype) -> dict[str, Any]:
    """Gates wide enough that the sigmoid saturates on both sides; `fused`: both in one tensor, as of one product."""
    halves = (torch.randn(*shape[:-1], 2 * shape[-1], generator=generator) * 3).to(dtype)
    gate, up = halves.chunk(2, dim=-1)
    return {"gate": gate, "up": up} if fused else {"gate": gate.clone(), "up": up.clone()}


def case(*shape: int, fused: bool = False, bench: tuple[str, ...] = ()) -> Case:
    elements = torch.Size(shape).numel()
    return Case(
        name=f"T={shape[0]}" if bench else f"T={'x'.join(map(str, shape))}{' fused' if fused else ''}",
        make=functools.partial(make, shape, fused),
        flops=6 * elements,
        elements=3 * elements,
        backward_flops=12 * elements,
        backward_elements=5 * elements,
        bench=bench,
    )


def plain_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


SUITES = (
    Suite(
        op="swiglu",
        function=swiglu,
        reference=swiglu_reference,
        plain=plain_swiglu,
        cases=(
            *(case(*shape) for shape in TESTED),
            case(7, 40, fused=True),
            *(case(T, LYNX_N, bench=ANY_DEVICE) for T in (1, 72, 512)),
        ),
        differentiable=("gate", "up"),
    ),
)
