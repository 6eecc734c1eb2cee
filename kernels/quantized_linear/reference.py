"""The truth of both ops in plain torch: float32 (float64 where a tensor is), rounded once at the end."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .packing import BLOCK, depth_of, dequantized_rows, integers

LEAST = 1e-30  # a block with no larger number is zeros


def quantized_rows(x: Tensor, depth: int, block: int) -> tuple[Tensor, Tensor]:
    """x [..., K] as integers [..., depth / block, block] and scales [..., depth / block], both float32.

    In float32 whatever x is, as the kernels do it: every implementation gets the same integers. A block with a NaN or
    an infinity has the scale NaN.
    """
    blocks = F.pad(x.float(), (0, depth - x.shape[-1])).unflatten(-1, (-1, block))
    largest = blocks.abs().amax(-1)
    most = torch.full_like(largest, 127.0)  # a tensor: torch makes 127.0 / x of a reciprocal, which rounds twice
    inverse = torch.where(largest > LEAST, most / largest, 0.0)
    scales = largest / most + (blocks - blocks).sum(-1)
    return (blocks * inverse[..., None]).round().nan_to_num(0), scales


def block_of(codes: Tensor, scales: Tensor) -> int:
    return min(depth_of(codes) // scales.shape[1], BLOCK)


class _QuantizedProduct(torch.autograd.Function):
    """Rows of integers times rows of integers; its gradient is that of the product without rounding x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.sizes = rows, x.shape[-1]
        wide = x.dtype
        depth, block = depth_of(codes), block_of(codes, scales)
        numbers, x_scales = (t.to(wide) for t in quantized_rows(x, depth, block))
        weights = integers(codes)[:rows].to(wide).unflatten(1, (-1, block))
        weight_scales = scales.to(wide).transpose(1, 2).flatten(0, 1)[:rows]
        group_blocks = depth // block // scales.shape[1]
        y = x.new_zeros(*x.shape[:-1], rows)
        for b in range(depth // block):
            dots = numbers[..., b, :] @ weights[:, b].T
            y = y + dots * (x_scales[..., b, None] * weight_scales[:, b // group_blocks])
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        rows, in_features = ctx.sizes
        codes, scales = ctx.saved_tensors
        return dy @ dequantized_rows(codes, scales, dy.dtype)[:rows, :in_features], None, None, None


def quantized_linear_reference(x: Tensor, codes: Tensor, scales: Tensor, *rest: Any, **options: Any) -> Tensor:
    """x rounded to integers by blocks, times the weight; see `quantized_linear`."""
    return _around(_QuantizedProduct.apply, x, codes, scales, *rest, **options)


def weight_only_linear_reference(x: Tensor, codes: Tensor, scales: Tensor, *rest: Any, **options: Any) -> Tensor:
    """x as it is, times the weight; see `weight_only_linear`."""

    def product(x: Tensor, codes: Tensor, scales: Tensor, rows: int) -> Tensor:
        return F.linear(x, dequantized_rows(codes, scales, x.dtype)[:rows, : x.shape[-1]])

    return _around(product, x, codes, scales, *rest, **options)


def activated(y: Tensor, activation: str | None) -> Tensor:
    """silu, gelu by erf, or silu of the first half times the second."""
    if activation == "gated_silu":
        gate, up = y.chunk(2, dim=-1)
        return F.silu(gate) * up
    return F.silu(y) if activation == "silu" else F.gelu(y) if activation == "gelu" else y


def _around(
    product: Any,
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    bias: Tensor | None = None,
    *,
    out_features: int | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """residual + scale * activation(product + bias)."""
    dtype = x.dtype
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    gated = activation == "gated_silu"
    N = codes.shape[0] * 16 // (2 if gated else 1) if out_features is None else out_features
    y = product(x.to(wide), codes, scales, codes.shape[0] * 16 if gated else N)
    if bias is not None:
        y = y + bias.to(wide)
    if gated:  # strips of gate and up in turn
        y = y.unflatten(-1, (-1, 2, 16)).transpose(-3, -2).flatten(-2)[..., :N].flatten(-2)
    y = activated(y, activation)
    y = y if scale == 1.0 else scale * y
    return (y if residual is None else residual.to(wide) + y).to(dtype)
