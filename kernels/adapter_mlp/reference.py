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
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
    wide_x, norm_weight, norm_bias, down_weight, down_bias, up_weight, up_bias, scaling = (t.to(dtype) for t in tensors)
    normed = F.layer_norm(wide_x, x.shape[-1:], norm_weight, norm_bias, eps)
    hidden = F.silu(F.linear(normed, down_weight, down_bias))
    return (wide_x + scaling * F.linear(hidden, up_weight, up_bias)).to(x.dtype)
