"""linear: schemas, registration, autograd and the public function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lynx_engine.contract import Contract
from lynx_engine.errors import LynxError
from lynx_engine.packing import STRIP, pack, packed_rows, unpack
from lynx_engine.registry import Op, Takes, define, tensor_refusals

from .backward import gradients
from .reference import linear_backward_input_reference, linear_backward_weight_reference, linear_reference

__all__ = ["linear", "pack_linear", "unpack_linear"]

ACTIVATIONS = ("none", "silu", "gelu", "gated_silu")


def linear(
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
    backend: str = "auto",
) -> Tensor:
    """residual + scale * activation(norm(x) weight^T + bias) in one pass over the weight.

    x [..., K]; bias [N]; residual [..., N]; norm_weight, norm_bias [K]. Returns [..., N] in x's dtype.
    weight: [N, K] as nn.Linear has it, or what `pack_linear` made of it, which is read faster and has no gradient.
    out_features: N, where a packed weight holds more rows (a multiple of 16) than there are.
    activation: None, "silu", "gelu" (by erf), or "gated_silu" of a weight packed with `up`: silu(gate) * up, no bias.
    norm: LayerNorm with norm_weight and norm_bias, RMSNorm with norm_weight alone, both in float32.

    Gradients reach all tensors but a packed weight. float32 and bfloat16 have kernels; any other floating dtype, or a
    mixture, runs on the reference. A row's result does not depend on the other rows, on their number, or on whether
    the weight is packed.

    LynxError: shapes that do not agree, an unknown activation, or a `backend` that cannot run the call.
    """
    activation = activation or "none"
    N = _out_features(weight, activation, out_features)
    tensors = (x, weight, bias, residual, norm_weight, norm_bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        if weight.requires_grad and weight.dim() != 2:
            raise LynxError("linear: a packed weight has no gradient; train the [N, K] that was packed")
        return _Linear.apply(*tensors, N, activation, scale, norm_eps, backend)
    return _forward(*tensors, N, activation, scale, norm_eps, backend)


def pack_linear(weight: Tensor, up: Tensor | None = None) -> Tensor:
    """`weight` [N, K] as `linear` reads it fastest: an ordinary tensor of the same dtype, to be saved and mapped.

    With `up` [N, K] both lie strip by strip in one weight, for `linear(..., activation="gated_silu")`: silu(gate) * up.
    LynxError: not two axes, or matrices that differ in shape or dtype. The layout: lynx_engine/packing.py.
    """
    return pack(weight, up)


def unpack_linear(packed: Tensor, out_features: int, in_features: int) -> Tensor:
    """The [N, K] that `pack_linear` packed; of a gated weight [2, N, K]: gate, up. For state dicts.

    LynxError: a tensor that is no packed weight of these sizes.
    """
    return unpack(packed, out_features, in_features)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        *tensors, ctx.N, ctx.activation, ctx.scale, ctx.eps, ctx.backend = args
        ctx.save_for_backward(*tensors)
        return _forward(*args)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        products = (_forward, _input_gradient, _weight_gradient)
        found = gradients(products, dy, ctx.saved_tensors, ctx.activation, ctx.scale, ctx.eps, ctx.backend)
        return (*found, None, None, None, None, None)


def _out_features(weight: Tensor, activation: str, wanted: int | None) -> int:
    """N of the call. LynxError where it does not suit the weight."""
    if activation not in ACTIVATIONS:
        raise LynxError(f"linear: activation must be None, {', '.join(ACTIVATIONS[1:])}, got {activation!r}")
    if weight.dim() == 2:
        if activation == "gated_silu":
            raise LynxError("linear: gated_silu needs a weight of pack_linear(gate, up), got [N, K]")
        rows, least = weight.shape[0], weight.shape[0]
    else:
        rows = packed_rows(weight) // (2 if activation == "gated_silu" else 1)
        least = rows - STRIP + 1
    if wanted is None:
        return rows
    if not least <= wanted <= max(rows, 0):
        raise LynxError(f"linear: out_features must be {least} to {rows} with this weight, got {wanted}")
    return wanted


def _check_shapes(x: Tensor, weight: Tensor, *rest: Any) -> None:
    bias, residual, norm_weight, norm_bias, N, activation, *_ = rest
    contract = Contract("linear")
    contract.expect("x", x, "... K")
    if weight.dim() == 2:
        contract.expect("weight", weight, f"{N} K")
    for name, tensor, dims in (
        ("bias", bias, f"{N}"),
        ("residual", residual, f"... {N}"),
        ("norm_weight", norm_weight, "K"),
        ("norm_bias", norm_bias, "K"),
    ):
        if tensor is not None:
            contract.expect(name, tensor, dims)
    if residual is not None and residual.shape[:-1] != x.shape[:-1]:
        raise LynxError(f"linear: residual must be {[*x.shape[:-1], N]}, got {list(residual.shape)}")
    if activation == "gated_silu" and bias is not None:
        raise LynxError("linear: gated_silu takes no bias")
    if norm_bias is not None and norm_weight is None:
        raise LynxError("linear: norm_bias needs norm_weight")


def _rows(x: Tensor) -> Tensor:
    """[..., K] as [M, K] with contiguous rows: a view wherever one exists."""
    if x.dim() == 0:
        raise LynxError("linear: x must be [..., K], got []")
    rows = x if x.dim() == 2 else x.reshape(x.shape[:-1].numel(), x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _refusals(takes: Takes, *args: Any) -> Sequence[str]:
    return tensor_refusals(takes, *[t for t in args[:6] if t is not None])


def _native_forward(kernel: Callable[..., None], x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    bias, residual, norm_weight, norm_bias, N, activation, scale, eps = rest
    if residual is not None:
        _check_shapes(x, weight, *rest)
        residual = _rows(residual)
    y = x.new_empty(*x.shape[:-1], N)
    vectors = (_contiguous(bias), residual, _contiguous(norm_weight), _contiguous(norm_bias))
    kernel(_rows(x), weight.contiguous(), *vectors, activation, scale, eps, _rows(y))
    return y


def _reference_forward(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    _check_shapes(x, weight, *rest)
    bias, residual, norm_weight, norm_bias, N, activation, scale, eps = rest
    return linear_reference(
        *(x, weight, bias),
        out_features=N,
        activation=activation,
        residual=residual,
        scale=scale,
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        norm_eps=eps,
    )


def _fake_forward(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    _check_shapes(x, weight, *rest)
    return x.new_empty(*x.shape[:-1], rest[4])


def _native_input_gradient(kernel: Callable[..., None], dy: Tensor, weight: Tensor, in_features: int) -> Tensor:
    dx = dy.new_empty(dy.shape[0], in_features)
    kernel(_rows(dy), weight.contiguous(), dx)
    return dx


def _native_weight_gradient(kernel: Callable[..., None], dy: Tensor, x: Tensor) -> Tensor:
    dw = x.new_empty(dy.shape[1], x.shape[1])
    kernel(_rows(dy), _rows(x), dw)
    return dw


_forward_op = Op("linear", reference=_reference_forward, native=_native_forward, refusals=_refusals)
_input_gradient_op = Op(
    "linear_backward_input",
    reference=linear_backward_input_reference,
    native=_native_input_gradient,
    refusals=lambda takes, dy, weight, in_features: tensor_refusals(takes, dy, weight),
)
_weight_gradient_op = Op(
    "linear_backward_weight",
    reference=linear_backward_weight_reference,
    native=_native_weight_gradient,
    refusals=tensor_refusals,
)

_forward: Callable[..., Tensor] = define(
    "linear(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, Tensor? norm_weight, Tensor? norm_bias,"
    " int out_features, str activation, float scale, float eps, str backend) -> Tensor",
    lambda *args: _forward_op(args[-1], *args[:-1]),
    _fake_forward,
)
_input_gradient: Callable[..., Tensor] = define(
    "linear_backward_input(Tensor dy, Tensor weight, int in_features, str backend) -> Tensor",
    lambda *args: _input_gradient_op(args[-1], *args[:-1]),
    lambda dy, weight, in_features, backend: dy.new_empty(dy.shape[0], in_features),
)
_weight_gradient: Callable[..., Tensor] = define(
    "linear_backward_weight(Tensor dy, Tensor x, str backend) -> Tensor",
    lambda *args: _weight_gradient_op(args[-1], *args[:-1]),
    lambda dy, x, backend: x.new_empty(dy.shape[1], x.shape[1]),
)
