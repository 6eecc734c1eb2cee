"""Shapes of the norms: Lynx's for the benchmarks, small and awkward ones for the tests."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lynx_engine.cases import ANY_DEVICE, Case, Suite

from .op import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from .reference import (
    add_layer_norm_reference,
    add_rms_norm_reference,
    layer_norm_reference,
    rms_norm_reference,
)

LLM, VIT = 4096, 1408
TESTED = (
    # leading axes of x, D
    ((1,), 64),
    ((2, 5), 48),
    ((63,), 65),
    ((3,), 2),
    ((17,), 1),
    ((5,), 31),
    ((2,), 1100),
    ((901,), 96),
    ((0,), 64),
    ((2, 0), 8),
)


def make(
    leading: tuple[int, ...],
    D: int,
    residual: bool,
    bias: bool,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Hidden states of order 1 with the common offset that residual streams have, and weights near 1."""

    def normal(*shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * std + mean).to(dtype)

    inputs = {"x": normal(*leading, D, mean=0.5)}
    if residual:
        inputs["residual"] = normal(*leading, D)
    inputs["weight"] = normal(D, std=0.1, mean=1.0)
    if bias:
        inputs["bias"] = normal(D, std=0.1)
    return inputs


def case(leading: tuple[int, ...], D: int, *, residual: bool, bias: bool, bench: tuple[str, ...] = ()) -> Case:
    rows = torch.Size(leading).numel()
    weights = (2 if bias else 1) * D
    return Case(
        name=f"T={rows} D={D}" if bench else f"T={'x'.join(map(str, leading))} D={D}",
        make=functools.partial(make, leading, D, residual, bias),
        flops=(8 if bias else 5) * rows * D,
        elements=(4 if residual else 2) * rows * D + weights,
        backward_flops=(12 if bias else 9) * rows * D,
        backward_elements=(4 if residual else 3) * rows * D + 2 * weights,
        bench=bench,
    )


def plain_rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """LLaMA's module: float32 statistics, the product in x's dtype."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def plain_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    added = x + residual
    return plain_rms_norm(added, weight), added


def plain_layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)


def plain_add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    added = x + residual
    return plain_layer_norm(added, weight, bias), added


def cases(widths: tuple[tuple[int, int], ...], *, residual: bool, bias: bool) -> tuple[Case, ...]:
    """The awkward sizes, and `widths` (T, D) for the benchmarks."""
    tested = [case(*sizes, residual=residual, bias=bias) for sizes in TESTED]
    measured = [case((T,), D, residual=residual, bias=bias, bench=ANY_DEVICE) for T, D in widths]
    return (*tested, *measured)


DECODER = ((1, LLM), (72, LLM), (512, LLM))
VISION = ((1, LLM), (257, VIT), (901, VIT))

SUITES = (
    Suite(
        op="rms_norm",
        function=rms_norm,
        reference=rms_norm_reference,
        plain=plain_rms_norm,
        cases=cases(DECODER, residual=False, bias=False),
        differentiable=("x", "weight"),
    ),
    Suite(
        op="add_rms_norm",
        function=add_rms_norm,
        reference=add_rms_norm_reference,
        plain=plain_add_rms_norm,
        cases=cases(DECODER, residual=True, bias=False),
        differentiable=("x", "residual", "weight"),
    ),
    Suite(
        op="layer_norm",
        function=layer_norm,
        reference=layer_norm_reference,
        plain=plain_layer_norm,
        cases=cases(VISION, residual=False, bias=True),
        differentiable=("x", "weight", "bias"),
    ),
    Suite(
        op="add_layer_norm",
        function=add_layer_norm,
        reference=add_layer_norm_reference,
        plain=plain_add_layer_norm,
        cases=cases(VISION, residual=True, bias=True),
        differentiable=("x", "residual", "weight", "bias"),
    ),
)
