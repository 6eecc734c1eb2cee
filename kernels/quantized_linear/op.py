"""quantized_linear and weight_only_linear: schemas, registration, autograd and the public functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lynx_engine.contract import Contract, as_rows
from lynx_engine.errors import LynxError
from lynx_engine.registry import Op, Takes, define, tensor_refusals

from .backward import gradients
from .packing import STRIP, QuantizedWeight, check_weight, dequantize_linear, quantize_linear, quantized_shapes
from .reference import quantized_linear_reference, weight_only_linear_reference

ACTIVATIONS = ("none", "silu", "gelu", "gated_silu")
__all__ = [
    "QuantizedWeight",
    "dequantize_linear",
    "quantize_linear",
    "quantized_linear",
    "quantized_shapes",
    "weight_only_linear",
]


def quantized_linear(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    bias: Tensor | None = None,
    *,
    out_features: int | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    scale: float = 1.0,
    backend: str = "auto",
) -> Tensor:
    """residual + scale * activation(round(x) weight^T + bias), products in integers: the fastest linear.

    x [..., K] in float32 or bfloat16; codes, scales: what `quantize_linear` gives; bias [N]; residual [..., N].
    round(x): every block of 128 values of k (32 where the weight's groups are 32) is integers of up to 127 times a
    scale. Sums within a block are exact, so the result is the same on every CPU instruction set, bit for bit, and a
    row's does not depend on the other rows. A NaN or an infinity in a row makes the whole row of the result NaN.
    out_features, activation: as in `linear`; "gated_silu" wants a weight quantised with `up`.

    The gradient of x is that of the product with x not rounded; codes and scales have none.
    LynxError: shapes that do not agree, an unknown activation, or a `backend` that cannot run the call.
    """
    rest = (bias, residual, out_features, activation, scale, backend)
    return _call("quantized_linear", x, codes, scales, *rest)


def weight_only_linear(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    bias: Tensor | None = None,
    *,
    out_features: int | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    scale: float = 1.0,
    backend: str = "auto",
) -> Tensor:
    """residual + scale * activation(x weight^T + bias), x as it is, the weight from 8 or 4 bits.

    Arguments as in `quantized_linear`. More exact by the rounding of x, and slower: the weight becomes numbers of x's
    dtype on its way through the cache, then `linear`'s product.
    """
    rest = (bias, residual, out_features, activation, scale, backend)
    return _call("weight_only_linear", x, codes, scales, *rest)


def _call(op: str, x: Tensor, codes: Tensor, scales: Tensor, *rest: Any) -> Tensor:
    bias, residual, out_features, activation, scale, backend = rest
    activation = activation or "none"
    N = _out_features(op, codes, activation, out_features)
    tensors = (x, codes, scales, bias, residual)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        if scales.requires_grad:
            raise LynxError(f"{op}: a quantised weight has no gradient")
        return _Function.apply(op, *tensors, N, activation, scale, backend)
    return _OPS[op](*tensors, N, activation, scale, backend)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, op: str, *args: Any) -> Tensor:
        *tensors, ctx.N, ctx.activation, ctx.scale, ctx.backend = args
        ctx.op = op
        ctx.save_for_backward(*tensors)
        return _OPS[op](*args)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, codes, scales, bias, residual = ctx.saved_tensors

        def pre_activation() -> Tensor:
            rows = codes.shape[0] * STRIP if ctx.activation == "gated_silu" else ctx.N
            return _OPS[ctx.op](x, codes, scales, bias, None, rows, "none", 1.0, ctx.backend)

        dx, d_bias = gradients(pre_activation, dy, x, codes, scales, bias, ctx.activation, ctx.scale)
        return (None, dx, None, None, d_bias, None if residual is None else dy, None, None, None, None)


def _out_features(op: str, codes: Tensor, activation: str, wanted: int | None) -> int:
    """N of the call. LynxError where it does not suit the weight."""
    if activation not in ACTIVATIONS:
        raise LynxError(f"{op}: activation must be None, {', '.join(ACTIVATIONS[1:])}, got {activation!r}")
    rows = codes.shape[0] * STRIP // (2 if activation == "gated_silu" else 1) if codes.dim() else 0
    if wanted is None:
        return rows
    if not rows - STRIP < wanted <= rows and wanted != rows:
        raise LynxError(f"{op}: out_features must be {rows - STRIP + 1} to {rows} with this weight, got {wanted}")
    return wanted


def _check_shapes(op: str, x: Tensor, codes: Tensor, scales: Tensor, *rest: Any) -> None:
    bias, residual, N, activation, _ = rest
    contract = Contract(op)
    contract.expect("x", x, "... K")
    check_weight(op, codes, scales, x.shape[-1])
    for name, tensor, dims in (("bias", bias, f"{N}"), ("residual", residual, f"... {N}")):
        if tensor is not None:
            contract.expect(name, tensor, dims)
    if residual is not None and residual.shape[:-1] != x.shape[:-1]:
        raise LynxError(f"{op}: residual must be {[*x.shape[:-1], N]}, got {list(residual.shape)}")
    if activation == "gated_silu" and bias is not None:
        raise LynxError(f"{op}: gated_silu takes no bias")


def _refusals(takes: Takes, x: Tensor, codes: Tensor, scales: Tensor, *rest: Any) -> Sequence[str]:
    reasons = list(tensor_refusals(takes, x, *rest[:2]))
    if scales.dtype != torch.bfloat16 or not (codes.is_cpu and scales.is_cpu):
        reasons.append(f"needs bfloat16 scales in CPU memory (got {str(scales.dtype).removeprefix('torch.')})")
    return reasons


def _native(op: str, kernel: Callable[..., None], x: Tensor, codes: Tensor, scales: Tensor, *rest: Any) -> Tensor:
    bias, residual, N, activation, scale = rest
    if residual is not None:
        _check_shapes(op, x, codes, scales, *rest)
        residual = as_rows(op, "residual", residual)
    y = x.new_empty(*x.shape[:-1], N)
    vector = None if bias is None else bias.contiguous()
    rows, weight = as_rows(op, "x", x), (codes.contiguous(), scales.contiguous())
    kernel(rows, *weight, vector, residual, activation, scale, y)
    return y


def _reference(op: str, product: Callable[..., Tensor], *args: Any) -> Tensor:
    _check_shapes(op, *args)
    x, codes, scales, bias, residual, N, activation, scale = args
    options = {"out_features": N, "activation": activation, "residual": residual, "scale": scale}
    return product(x, codes, scales, bias, **options)


def _registered(op: str, reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
    entry = Op(
        op,
        reference=lambda *args: _reference(op, reference, *args),
        native=lambda kernel, *args: _native(op, kernel, *args),
        refusals=_refusals,
    )

    def fake(*args: Any) -> Tensor:
        _check_shapes(op, *args[:-1])
        return args[0].new_empty(*args[0].shape[:-1], args[5])

    defined: Callable[..., Tensor] = define(
        f"{op}(Tensor x, Tensor codes, Tensor scales, Tensor? bias, Tensor? residual, int out_features,"
        " str activation, float scale, str backend) -> Tensor",
        lambda *args: entry(args[-1], *args[:-1]),
        fake,
    )
    return defined


_OPS = {
    "quantized_linear": _registered("quantized_linear", quantized_linear_reference),
    "weight_only_linear": _registered("weight_only_linear", weight_only_linear_reference),
}
