"""The truth of the norms in plain torch: statistics in float32, or float64 where the input is."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm_reference(x: Tensor, weight: Tensor, *, eps: float = 1e-6) -> Tensor:
    """weight * (x / sqrt(mean(x^2) + eps)), the quotient rounded to x's dtype before the product (REFERENCE.md 5.1)."""
    wide = _widened(x)
    return (weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)).to(x.dtype)


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias, rounded once."""
    wide = _widened(x)
    centred = wide - wide.mean(-1, keepdim=True)
    unit = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    return (unit * weight.to(wide.dtype) + bias.to(wide.dtype)).to(x.dtype)


def add_rms_norm_reference(x: Tensor, residual: Tensor, weight: Tensor, *, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """rms_norm(x + residual), and x + residual."""
    added = x + residual
    return rms_norm_reference(added, weight, eps=eps), added


def add_layer_norm_reference(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """layer_norm(x + residual), and x + residual."""
    added = x + residual
    return layer_norm_reference(added, weight, bias, eps=eps), added


def norm_backward_reference(
    dy: Tensor, d_sum: Tensor | None, x: Tensor, weight: Tensor, *, eps: float, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias, written out: below a dispatch mode there is no autograd to ask.

    backward.h has the formulas. d_sum: what arrives at x + residual from elsewhere.
    """
    wide, dy, w = (t.to(_widened(x).dtype) for t in (x, dy, weight))
    if centred:
        wide = wide - wide.mean(-1, keepdim=True)
    rstd = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    unit, g = wide * rstd, dy * w
    slope = (g * unit).mean(-1, keepdim=True)
    dx = rstd * ((g - g.mean(-1, keepdim=True) if centred else g) - unit * slope)
    if d_sum is not None:
        dx = dx + d_sum
    rows = list(range(x.dim() - 1))
    d_weight, d_bias = (t.sum(rows) if rows else t for t in (dy * unit, dy))
    return dx.to(x.dtype), d_weight.to(weight.dtype), d_bias.to(weight.dtype)


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
