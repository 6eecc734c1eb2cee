"""adapter_mlp: schema, registration, autograd and the public function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lynx_engine.contract import Contract
from lynx_engine.errors import LynxError
from lynx_engine.packing import unpack
from lynx_engine.registry import Op, Takes, define, tensor_refusals

from .reference import adapter_mlp_backward_reference, adapter_mlp_keeping_reference, adapter_mlp_reference

__all__ = ["adapter_mlp"]

_SHAPES = {
    "x": "... D",
    "norm_weight": "D",
    "norm_bias": "D",
    "down_weight": "R D",
    "down_bias": "R",
    "up_weight": "D R",
    "up_bias": "D",
    "scaling": "1",
}
_TENSORS = ", ".join(f"Tensor {name}" for name in _SHAPES)


def adapter_mlp(
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
    backend: str = "auto",
) -> Tensor:
    """x + scaling * (up silu(down LN(x) + down_bias) + up_bias), with gradients for all eight tensors.

    x [..., D]; norm_weight, norm_bias, up_bias [D]; down_weight [R, D]; down_bias [R]; up_weight [D, R]; scaling [1].
    Either weight may be what `pack_linear` made of it: read faster, and then there are no gradients.
    Returns [..., D] in x's dtype. LN is LayerNorm over D with `eps`. float32 and bfloat16 have kernels; any other
    floating dtype, or a mixture, runs on the reference. A row's result does not depend on the other rows.

    LynxError: shapes that do not agree, or a `backend` that cannot run the call.
    Source: Lynx (arXiv 2307.02469) section 2.3; the adapter of the decoder layers, R = D / 2.
    """
    tensors = (x, norm_weight, norm_bias, down_weight, down_bias, up_weight, up_bias, scaling)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        if down_weight.dim() != 2 or up_weight.dim() != 2:
            raise LynxError("adapter_mlp: packed weights have no gradient; train the ones that were packed")
        return _AdapterMlp.apply(*tensors, eps, backend)
    return _forward(*tensors, eps, backend)


class _AdapterMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        *tensors, ctx.eps, ctx.backend = args
        y, pre = _keeping(*args)
        ctx.save_for_backward(pre, *tensors)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return (*_backward(dy, *ctx.saved_tensors, ctx.eps, ctx.backend), None, None)


def _check_shapes(*tensors: Tensor) -> None:
    tensors = _unpacked(*tensors)
    contract = Contract("adapter_mlp")
    for (name, dims), tensor in zip(_SHAPES.items(), tensors, strict=True):
        contract.expect(name, tensor, dims)


def _unpacked(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The eight tensors with the weights as nn.Linear has them."""
    x, norm_weight, norm_bias, down_weight, down_bias, up_weight, up_bias, scaling = tensors
    if down_weight.dim() > 2:
        down_weight = unpack(down_weight, down_bias.shape[0], x.shape[-1])
    if up_weight.dim() > 2:
        up_weight = unpack(up_weight, up_bias.shape[0], down_bias.shape[0])
    return x, norm_weight, norm_bias, down_weight, down_bias, up_weight, up_bias, scaling


def _rows(x: Tensor) -> Tensor:
    """[..., D] as [T, D] with contiguous rows: a view wherever one exists."""
    if x.dim() == 0:
        raise LynxError("adapter_mlp: x must be [..., D], got []")
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1]) if x.numel() else x.new_empty(0, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _refusals(takes: Takes, *args: Any) -> Sequence[str]:
    return tensor_refusals(takes, *args[:-1])


def _native_forward(kernel: Callable[..., None], x: Tensor, *weights_eps: Any) -> Tensor:
    *weights, eps = weights_eps
    y = x.new_empty(x.shape)
    kernel(_rows(x), *[w.contiguous() for w in weights], eps, _rows(y))
    return y


def _native_keeping(kernel: Callable[..., None], x: Tensor, *weights_eps: Any) -> tuple[Tensor, Tensor]:
    *weights, eps = weights_eps
    y, pre = x.new_empty(x.shape), x.new_empty(*x.shape[:-1], weights[3].shape[0])
    kernel(_rows(x), *[w.contiguous() for w in weights], eps, _rows(y), _rows(pre))
    return y, pre


def _native_backward(
    kernel: Callable[..., None], dy: Tensor, pre: Tensor, x: Tensor, *weights_eps: Any
) -> tuple[Tensor, ...]:
    *weights, eps = weights_eps
    weights = [w.contiguous() for w in weights]
    dx, *gradients = [t.new_empty(t.shape) for t in (x, *weights)]
    kernel(_rows(dy), _rows(pre), _rows(x), *weights, eps, _rows(dx), *gradients)
    return (dx, *gradients)


def _reference_forward(*args: Any) -> Tensor:
    *tensors, eps = args
    _check_shapes(*tensors)
    return adapter_mlp_reference(*_unpacked(*tensors), eps=eps)


def _reference_keeping(*args: Any) -> tuple[Tensor, Tensor]:
    *tensors, eps = args
    _check_shapes(*tensors)
    return adapter_mlp_keeping_reference(*tensors, eps=eps)


def _reference_backward(dy: Tensor, pre: Tensor, *args: Any) -> tuple[Tensor, ...]:
    *tensors, eps = args
    return adapter_mlp_backward_reference(dy, *tensors, eps=eps)


def _fake_forward(*args: Any) -> Tensor:
    *tensors, _, _ = args
    _check_shapes(*tensors)
    return tensors[0].new_empty(tensors[0].shape)


def _fake_keeping(*args: Any) -> tuple[Tensor, Tensor]:
    *tensors, _, _ = args
    _check_shapes(*tensors)
    x, down_bias = tensors[0], tensors[4]
    return x.new_empty(x.shape), x.new_empty(*x.shape[:-1], down_bias.shape[0])


def _fake_backward(dy: Tensor, pre: Tensor, *args: Any) -> tuple[Tensor, ...]:
    *tensors, _, _ = args
    return tuple(t.new_empty(t.shape) for t in tensors)


_forward_op = Op("adapter_mlp", reference=_reference_forward, native=_native_forward, refusals=_refusals)
_keeping_op = Op("adapter_mlp_keeping", reference=_reference_keeping, native=_native_keeping, refusals=_refusals)
_backward_op = Op("adapter_mlp_backward", reference=_reference_backward, native=_native_backward, refusals=_refusals)

_forward: Callable[..., Tensor] = define(
    f"adapter_mlp({_TENSORS}, float eps, str backend) -> Tensor",
    lambda *args: _forward_op(args[-1], *args[:-1]),
    _fake_forward,
)
_keeping: Callable[..., tuple[Tensor, Tensor]] = define(
    f"adapter_mlp_keeping({_TENSORS}, float eps, str backend) -> (Tensor, Tensor)",
    lambda *args: _keeping_op(args[-1], *args[:-1]),
    _fake_keeping,
)
_backward: Callable[..., tuple[Tensor, ...]] = define(
    f"adapter_mlp_backward(Tensor dy, Tensor pre, {_TENSORS}, float eps, str backend)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    lambda *args: _backward_op(args[-1], *args[:-1]),
    _fake_backward,
)
