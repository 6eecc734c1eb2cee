"""The truth of swiglu in plain torch: float32 (float64 where a tensor is), rounded once at the end."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def swiglu_reference(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up in gate's dtype."""
    wide = torch.promote_types(torch.promote_types(gate.dtype, up.dtype), torch.float32)
    return (F.silu(gate.to(wide)) * up.to(wide)).to(gate.dtype)


def swiglu_backward_reference(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of gate and up, written out: below a dispatch mode there is no autograd to ask."""
    wide = torch.promote_types(torch.promote_types(gate.dtype, up.dtype), torch.float32)
    dy, g, u = (t.to(wide) for t in (dy, gate, up))
    s = g.sigmoid()
    return (dy * u * s * (1 + g * (1 - s))).to(gate.dtype), (dy * F.silu(g)).to(up.dtype)
