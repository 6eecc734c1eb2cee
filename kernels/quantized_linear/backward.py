"""The gradients of both ops: those of the product by the numbers that the codes stand for, x not rounded.

    pre = x W^T + b    y = residual + scale * act(pre)
    d_pre = scale * dy * act'(pre)    dx = d_pre W    db = sum d_pre

Nothing is kept from forward but its inputs. W is made of the codes anew each time, in x's dtype: training adapters
around frozen codes costs the memory of one weight at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .packing import STRIP, dequantized_rows


def gradients(
    pre_activation: Callable[[], Tensor],
    dy: Tensor,
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    activation: str,
    scale: float,
) -> tuple[Tensor, Tensor | None]:
    """Those of x and bias; dy [..., N]. The product is linear's, on whichever of its backends takes x's dtype."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    d_pre = dy.to(wide) * scale
    if activation != "none":
        d_pre = _through_activation(d_pre, pre_activation().to(wide), activation)
    d_pre = d_pre.flatten(0, -2) if d_pre.dim() > 1 else d_pre[None]
    d_bias = None if bias is None else d_pre.sum(0).to(bias.dtype)
    in_features = x.shape[-1]
    weight = dequantized_rows(codes, scales, wide)[: d_pre.shape[1], :in_features].to(x.dtype).contiguous()
    dx = torch.ops.lynx.linear_backward_input(d_pre.to(x.dtype), weight, in_features, "auto")
    return dx.view(x.shape), d_bias


def _through_activation(dy: Tensor, pre: Tensor, activation: str) -> Tensor:
    if activation == "silu":
        return torch.ops.aten.silu_backward(dy, pre)
    if activation == "gelu":
        return torch.ops.aten.gelu_backward(dy, pre)
    gate, up = pre.unflatten(-1, (-1, 2, STRIP)).unbind(-2)
    dy = torch.nn.functional.pad(dy, (0, -dy.shape[-1] % STRIP)).unflatten(-1, (-1, STRIP))
    d_gate = torch.ops.aten.silu_backward(dy * up, gate)
    return torch.stack((d_gate, dy * torch.nn.functional.silu(gate)), dim=-2).flatten(-3)
