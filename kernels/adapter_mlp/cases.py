"""Shapes of adapter_mlp: Lynx's for the benchmarks, small and awkward ones for the tests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lynx_engine.cases import ANY_DEVICE, Case, Suite

from .op import adapter_mlp
from .reference import adapter_mlp_reference

LYNX_D, LYNX_R = 4096, 2048
TESTED = (
    # leading axes of x, D, R
    ((1,), 64, 32),
    ((2, 5), 48, 24),
    ((63,), 65, 33),
    ((3,), 2, 1),
    ((17,), 16, 7),
    ((5,), 31, 130),
    ((2,), 1100, 550),
    ((301,), 96, 48),
    ((0,), 64, 32),
    ((2, 0), 8, 4),
)


def make(leading: tuple[int, ...], D: int, R: int, generator: torch.Generator, dtype: torch.dtype) -> dict[str, Any]:
    """Inputs of the sizes that training meets: activations of order 1, products of order 1 after each linear."""

    def normal(*shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * std + mean).to(dtype)

    return {
        "x": normal(*leading, D),
        "norm_weight": normal(D, std=0.1, mean=1.0),
        "norm_bias": normal(D, std=0.1),
        "down_weight": normal(R, D, std=D**-0.5),
        "down_bias": normal(R, std=0.1),
        "up_weight": normal(D, R, std=R**-0.5),
        "up_bias": normal(D, std=0.1),
        "scaling": normal(1, std=0.1, mean=0.8),
    }


def case(leading: tuple[int, ...], D: int, R: int, *, bench: tuple[str, ...] = ()) -> Case:
    rows = torch.Size(leading).numel()
    weights = 2 * D * R + 3 * D + R + 1
    return Case(
        name=f"T={rows}" if bench else f"T={'x'.join(map(str, leading))} D={D} R={R}",
        make=functools.partial(make, leading, D, R),
        flops=4 * rows * D * R,
        elements=2 * rows * D + weights,
        backward_flops=8 * rows * D * R,
        backward_elements=3 * rows * D + 2 * weights,
        bench=bench,
    )


def plain_adapter_mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    scaling: Tensor,
) -> Tensor:
    """The authors' module, each step in x's dtype."""
    normed = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, 1e-5)
    return x + scaling * F.linear(F.silu(F.linear(normed, down_weight, down_bias)), up_weight, up_bias)


def packed_by_onednn(arguments: dict[str, Any]) -> Callable[[], Tensor]:
    """torch's own oneDNN linears on weights packed beforehand, SiLU fused into the first. Forward only."""
    x, scaling = arguments["x"], arguments["scaling"]
    rows = x.shape[:-1].numel()
    linears = [
        (torch.ops.mkldnn._reorder_linear_weight(arguments[f"{name}_weight"], rows), name, activation)
        for name, activation in (("down", "swish"), ("up", "none"))
    ]

    def call() -> Tensor:
        hidden = F.layer_norm(x, x.shape[-1:], arguments["norm_weight"], arguments["norm_bias"], 1e-5)
        for weight, name, activation in linears:
            bias = arguments[f"{name}_bias"]
            hidden = torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, activation, [], "")
        return x + scaling * hidden

    return call


SUITES = (
    Suite(
        op="adapter_mlp",
        function=adapter_mlp,
        reference=adapter_mlp_reference,
        plain=plain_adapter_mlp,
        cases=(
            *(case(*sizes) for sizes in TESTED),
            *(case((T,), LYNX_D, LYNX_R, bench=ANY_DEVICE) for T in (1, 8, 72, 288, 512, 2048)),
            *(case((T,), LYNX_D, LYNX_R, bench=("cuda",)) for T in (4096, 32768)),
        ),
        differentiable=(
            *("x", "norm_weight", "norm_bias", "down_weight", "down_bias"),
            *("up_weight", "up_bias", "scaling"),
        ),
        peers={"onednn": packed_by_onednn},
    ),
)
