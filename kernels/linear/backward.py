"""The gradients of linear: products by the kernels, what stands around them recomputed in float32 from the inputs.

    h = norm(x)    pre = h W^T + b    y = residual + scale * act(pre)
    d_pre = scale * dy * act'(pre)    d_h = d_pre W    d_W = d_pre^T h    d_b = sum d_pre

Nothing is kept from forward but its inputs: `pre` costs one more product where there is an activation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lynx_engine.packing import STRIP, packed_rows

from .reference import normalised

Gradients = tuple[Tensor | None, ...]
Products = Sequence[Callable[..., Tensor]]


def gradients(
    products: Products,
    dy: Tensor,
    tensors: Sequence[Tensor | None],
    activation: str,
    scale: float,
    eps: float,
    backend: str,
) -> Gradients:
    """Those of (x, weight, bias, residual, norm_weight, norm_bias); None of a packed weight and of what is None."""
    x, weight, bias, residual, norm_weight, norm_bias = tensors
    assert x is not None and weight is not None
    forward, input_gradient, weight_gradient = products
    x_MK = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    wide = _wide(x)
    dy_MN = dy.reshape(x_MK.shape[0], dy.shape[-1])
    h_MK = normalised(x_MK.to(wide), _to(norm_weight, wide), _to(norm_bias, wide), eps).to(x.dtype)
    d_pre = dy_MN.to(wide) * scale
    if activation != "none":
        rows = packed_rows(weight) if activation == "gated_silu" else dy.shape[-1]
        pre = forward(h_MK, weight, bias, None, None, None, rows, "none", 1.0, eps, backend)
        d_pre = _through_activation(d_pre, pre.to(wide), activation)
    d_bias = None if bias is None else d_pre.sum(0).to(bias.dtype)
    d_pre = d_pre.to(x.dtype)
    d_weight = weight_gradient(d_pre, h_MK, backend).to(weight.dtype) if weight.dim() == 2 else None
    d_h = input_gradient(d_pre, weight, x.shape[-1], backend)
    dx, d_norm_weight, d_norm_bias = _through_norm(d_h, x_MK, norm_weight, norm_bias, eps)
    return (dx.view(x.shape), d_weight, d_bias, None if residual is None else dy, d_norm_weight, d_norm_bias)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _to(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)


def _through_activation(dy: Tensor, pre: Tensor, activation: str) -> Tensor:
    if activation == "silu":
        return torch.ops.aten.silu_backward(dy, pre)
    if activation == "gelu":
        return torch.ops.aten.gelu_backward(dy, pre)
    gate, up = pre.unflatten(-1, (-1, 2, STRIP)).unbind(-2)
    dy = torch.nn.functional.pad(dy, (0, -dy.shape[-1] % STRIP)).unflatten(-1, (-1, STRIP))
    d_gate = torch.ops.aten.silu_backward(dy * up, gate)
    return torch.stack((d_gate, dy * torch.nn.functional.silu(gate)), dim=-2).flatten(-3)


def _through_norm(
    d_h: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of x, weight and bias of LayerNorm, or of RMSNorm where there is no bias."""
    if weight is None:
        return d_h, None, None
    wide = _wide(x)
    d_h, x_wide = d_h.to(wide), x.to(wide)
    centred = x_wide if bias is None else x_wide - x_wide.mean(-1, keepdim=True)
    rstd = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    unit, weighted = centred * rstd, d_h * weight.to(wide)
    dx = weighted - unit * (weighted * unit).mean(-1, keepdim=True)
    if bias is not None:
        dx = dx - weighted.mean(-1, keepdim=True)
    d_bias = None if bias is None else d_h.sum(0).to(bias.dtype)
    return (rstd * dx).to(x.dtype), (d_h * unit).sum(0).to(weight.dtype), d_bias
