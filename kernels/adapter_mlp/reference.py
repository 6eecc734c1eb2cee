"""The truth of adapter_mlp in plain torch: float32 (float64 where a tensor is), rounded once at the end."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def adapter_mlp_reference(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    scaling: Tensor,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """x + scaling * (up silu(down LN(x) + down_bias) + up_bias): [..., D] in x's dtype."""
    tensors = (x, norm_weight, norm_bias, down_weight, down_bias, up_weight, up_bias, scaling)
    wide_x, norm_weight, norm_bias, down_weight, down_bias, up_weight, up_bias, scaling = _widened(*tensors)
    normed = F.layer_norm(wide_x, x.shape[-1:], norm_weight, norm_bias, eps)
    hidden = F.silu(F.linear(normed, down_weight, down_bias))
    return (wide_x + scaling * F.linear(hidden, up_weight, up_bias)).to(x.dtype)


def adapter_mlp_keeping_reference(*tensors: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """The output, and what the backward pass takes of it: down LN(x) + down_bias, [..., R] in x's dtype."""
    x, norm_weight, norm_bias, down_weight, down_bias, *_ = _widened(*tensors)
    normed = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
    pre = F.linear(normed, down_weight, down_bias).to(tensors[0].dtype)
    return adapter_mlp_reference(*tensors, eps=eps), pre


def adapter_mlp_backward_reference(dy: Tensor, *tensors: Tensor, eps: float = 1e-5) -> tuple[Tensor, ...]:
    """The gradients of all eight tensors, given that of the output, written out.

    Not by autograd: the op's backward is itself a torch op, and below a dispatch mode (FlopCounterMode, for one) there
    is no autograd to ask. backward.h has the formulas.
    """
    dy, x, norm_weight, norm_bias, down_weight, down_bias, up_weight, up_bias, scaling = _widened(dy, *tensors)
    dy, x = (t.reshape(t.shape[:-1].numel(), t.shape[-1]) for t in (dy, x))
    centred = x - x.mean(-1, keepdim=True)
    rstd = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    unit = centred * rstd
    normed = unit * norm_weight + norm_bias
    pre = F.linear(normed, down_weight, down_bias)
    gate = pre.sigmoid()
    hidden = F.silu(pre)
    d_up = scaling * dy
    d_pre = d_up @ up_weight * gate * (1 + pre * (1 - gate))
    d_normed = d_pre @ down_weight
    weighted = d_normed * norm_weight
    along_unit = (weighted * unit).mean(-1, keepdim=True)
    gradients = (
        dy + rstd * (weighted - weighted.mean(-1, keepdim=True) - unit * along_unit),
        *((d_normed * unit).sum(0), d_normed.sum(0)),
        *(d_pre.T @ normed, d_pre.sum(0)),
        *(d_up.T @ hidden, d_up.sum(0)),
        (dy * F.linear(hidden, up_weight, up_bias)).sum(),
    )
    return tuple(g.reshape(t.shape).to(t.dtype) for g, t in zip(gradients, tensors, strict=True))


def _widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
    return tuple(t.to(dtype) for t in tensors)
