"""The truth of linear in plain torch: float32 (float64 where a tensor is), rounded once at the end."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lynx_engine.packing import unpack


def linear_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    out_features: int | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    scale: float = 1.0,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    norm_eps: float = 1e-5,
) -> Tensor:
    """residual + scale * activation(norm(x) weight^T + bias): [..., N] in x's dtype."""
    dtype = x.dtype
    x, weight, bias, residual, norm_weight, norm_bias = _widened(x, weight, bias, residual, norm_weight, norm_bias)
    gated = activation == "gated_silu"
    if out_features is None:
        out_features = weight.shape[0] if weight.dim() == 2 else weight.shape[0] * 16 // (2 if gated else 1)
    if weight.dim() != 2:
        weight = unpack(weight, out_features, x.shape[-1])
    normed = normalised(x, norm_weight, norm_bias, norm_eps)
    y = activated(F.linear(normed, weight.flatten(0, -2), bias), activation)
    y = y if scale == 1.0 else scale * y
    return (y if residual is None else residual + y).to(dtype)


def linear_backward_input_reference(dy: Tensor, weight: Tensor, in_features: int) -> Tensor:
    """dy weight: [M, K]."""
    wide_dy, weight = _widened(dy, weight)
    matrix = weight if weight.dim() == 2 else unpack(weight, dy.shape[-1], in_features)
    return (wide_dy @ matrix).to(dy.dtype)


def linear_backward_weight_reference(dy: Tensor, x: Tensor) -> Tensor:
    """dy^T x: [N, K]."""
    wide_dy, wide_x = _widened(dy, x)
    return (wide_dy.T @ wide_x).to(x.dtype)


def normalised(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """LayerNorm over the last axis, RMSNorm where there is no bias, x where there is no weight."""
    if weight is None:
        return x
    if bias is None:
        return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def activated(y: Tensor, activation: str | None) -> Tensor:
    """silu, gelu by erf, or silu of the first half times the second."""
    if activation == "gated_silu":
        gate, up = y.chunk(2, dim=-1)
        return F.silu(gate) * up
    return F.silu(y) if activation == "silu" else F.gelu(y) if activation == "gelu" else y


def _widened(*tensors: Tensor | None) -> tuple[Tensor, ...]:
    """All in float32, or float64 where one is; None stays (and is typed away: callers know which may be)."""
    wide = torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32
    return tuple(t if t is None else t.to(wide) for t in tensors)  # type: ignore[misc]
