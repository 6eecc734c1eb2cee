"""cross_entropy and fused_linear_cross_entropy: schemas, registration, autograd and the public functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lynx_engine.contract import Contract
from lynx_engine.errors import LynxError
from lynx_engine.registry import Op, Takes, define, tensor_refusals

from .fused import check_shapes, fused_native, fused_reference
from .reference import cross_entropy_backward_reference, cross_entropy_reference, softmax_stats_reference

__all__ = ["cross_entropy", "fused_linear_cross_entropy"]


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """F.cross_entropy of rows: log sum e^x - x[label], smoothed over all V classes; gradients for logits.

    logits [T, V] with contiguous rows, labels int64 [T]. Rows whose label is `ignore_index` do not count and are not
    looked at. reduction: "mean" over the rows that count (NaN without any), "sum", or "none": [T], 0 where ignored.
    Returns logits' dtype; sums are float32. float32 and bfloat16 have kernels. Source: REFERENCE.md section 5.10.
    LynxError: a label outside of [0, V), shapes that do not agree, or a `backend` that cannot run the call.
    """
    _check_options("cross_entropy", reduction, ("mean", "sum", "none"), label_smoothing)
    if torch.is_grad_enabled() and logits.requires_grad:
        return _CrossEntropy.apply(logits, labels, ignore_index, label_smoothing, reduction, backend)
    return _forward(logits, labels, ignore_index, label_smoothing, reduction, backend)[0]


def fused_linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    out_features: int | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """cross_entropy(hidden @ weight.T, labels) without ever holding all logits; gradients for hidden and weight.

    hidden [T, D]; weight [V, D], or what `pack_linear` made of it with out_features = V, which gets no gradient; labels
    int64 [T]; options as in `cross_entropy`, reduction "mean" or "sum". Rows that do not count are left out of the
    products. The gradients are computed in the forward pass, chunk by chunk while the chunk's logits are there (Liger
    Kernel, arXiv 2410.10989, section 3.2), and only for what requires them. The products are those of `linear`.
    LynxError: as `cross_entropy`; a packed weight that requires a gradient or comes without out_features.
    """
    _check_options("fused_linear_cross_entropy", reduction, ("mean", "sum"), label_smoothing)
    if weight.dim() == 2:
        out_features = weight.shape[0]
    elif out_features is None or weight.requires_grad:
        raise LynxError("fused_linear_cross_entropy: a packed weight needs out_features and has no gradient")
    options = (out_features, ignore_index, label_smoothing, reduction)
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _FusedLinearCrossEntropy.apply(hidden, weight, labels, *options, backend)
    return _fused(hidden, weight, labels, *options, False, False, backend)[0]


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, ignore_index: int, smoothing: float, reduction: str, backend: str
    ) -> Tensor:
        loss, stats = _forward(logits, labels, ignore_index, smoothing, reduction, backend)
        ctx.save_for_backward(logits, labels, stats)
        ctx.options = (ignore_index, smoothing, reduction, backend)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        return (_backward(d_loss, *ctx.saved_tensors, *ctx.options), *[None] * 5)


class _FusedLinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, *options_backend: Any) -> Tensor:
        *options, ctx.backend = options_backend
        ctx.asked = ctx.needs_input_grad[:2]
        loss, d_hidden, d_weight = _fused(hidden, weight, labels, *options, *ctx.asked, ctx.backend)
        ctx.save_for_backward(d_hidden, d_weight)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        gradients = _fused_backward(d_loss, *ctx.saved_tensors, ctx.backend)
        return (*(g if asked else None for g, asked in zip(gradients, ctx.asked, strict=True)), *[None] * 6)


def _check_options(op: str, reduction: str, reductions: tuple[str, ...], label_smoothing: float) -> None:
    if reduction not in reductions:
        raise LynxError(f"{op}: reduction must be one of {', '.join(reductions)}, got {reduction!r}")
    if not 0 <= label_smoothing <= 1:
        raise LynxError(f"{op}: label_smoothing must be in [0, 1], got {label_smoothing}")


def _check_shapes(logits: Tensor, labels: Tensor) -> None:
    contract = Contract("cross_entropy")
    contract.expect("logits", logits, "T V")
    contract.expect("labels", labels, "T")


def _mean_scale(labels: Tensor, ignore_index: int, reduction: str) -> float:
    """1 / rows that count for the mean (NaN without any), else 1."""
    if reduction != "mean":
        return 1.0
    kept = int((labels != ignore_index).sum())
    return 1.0 / kept if kept else float("nan")


def _rows(logits: Tensor) -> Tensor:
    return logits if logits.stride(1) == 1 else logits.contiguous()


def _native_forward(
    kernel: Callable[..., None], logits: Tensor, labels: Tensor, ignore_index: int, smoothing: float, reduction: str
) -> tuple[Tensor, Tensor]:
    losses, stats = (torch.empty(len(logits), *size, device=logits.device) for size in ((), (2,)))
    kernel(_rows(logits), labels.contiguous(), ignore_index, smoothing, losses, stats)
    if reduction != "none":
        losses = losses.sum(dtype=torch.float64) * _mean_scale(labels, ignore_index, reduction)
    return losses.to(logits.dtype, copy=True), stats


def _native_backward(
    kernel: Callable[..., None],
    d_loss: Tensor,
    logits: Tensor,
    labels: Tensor,
    stats: Tensor,
    ignore_index: int,
    smoothing: float,
    reduction: str,
) -> Tensor:
    d_logits = logits.new_empty(logits.shape)
    scale = _mean_scale(labels, ignore_index, reduction)
    kernel(d_loss.contiguous(), _rows(logits), labels.contiguous(), stats, ignore_index, smoothing, scale, d_logits)
    return d_logits


def _reference_forward(
    logits: Tensor, labels: Tensor, ignore_index: int, smoothing: float, reduction: str
) -> tuple[Tensor, Tensor]:
    _check_shapes(logits, labels)
    loss = cross_entropy_reference(
        logits, labels, ignore_index=ignore_index, label_smoothing=smoothing, reduction=reduction
    )
    return loss.clone(), softmax_stats_reference(logits, labels, ignore_index)


def _reference_backward(
    d_loss: Tensor, logits: Tensor, labels: Tensor, stats: Tensor, ignore_index: int, smoothing: float, reduction: str
) -> Tensor:
    scale = _mean_scale(labels, ignore_index, reduction)
    return cross_entropy_backward_reference(d_loss, logits, labels, stats, ignore_index, smoothing, scale)


def _fake_forward(
    logits: Tensor, labels: Tensor, ignore_index: int, smoothing: float, reduction: str, backend: str
) -> tuple[Tensor, Tensor]:
    _check_shapes(logits, labels)
    stats = logits.new_empty(len(labels), 2, dtype=torch.promote_types(logits.dtype, torch.float32))
    return logits.new_empty(labels.shape if reduction == "none" else ()), stats


def _fake_backward(d_loss: Tensor, logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape)


def _fake_fused(hidden: Tensor, weight: Tensor, labels: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    check_shapes(hidden, weight, labels)
    *_, of_hidden, of_weight, _ = options
    return (
        hidden.new_empty(()),
        hidden.new_empty(hidden.shape if of_hidden else (0,)),
        weight.new_empty(weight.shape if of_weight else (0,)),
    )


def _scaled(d_loss: Tensor, d_hidden: Tensor, d_weight: Tensor) -> tuple[Tensor, Tensor]:
    return d_hidden * d_loss, d_weight * d_loss


def _refusals(takes: Takes, *args: Any) -> Sequence[str]:
    return tensor_refusals(takes, *[arg for arg in args if isinstance(arg, Tensor) and arg.is_floating_point()])


def _refusals_backward(takes: Takes, d_loss: Tensor, logits: Tensor, *_: Any) -> Sequence[str]:
    return tensor_refusals(takes, d_loss, logits)


_OPTIONS = "int ignore_index, float label_smoothing, str reduction"
_forward_op = Op("cross_entropy", reference=_reference_forward, native=_native_forward, refusals=_refusals, triton=True)
_backward_op = Op(
    "cross_entropy_backward",
    reference=_reference_backward,
    native=_native_backward,
    refusals=_refusals_backward,
    triton=True,
)
_fused_op = Op(
    "fused_linear_cross_entropy", reference=fused_reference, native=fused_native, refusals=_refusals, triton=True
)

_forward: Callable[..., tuple[Tensor, Tensor]] = define(
    f"cross_entropy(Tensor logits, Tensor labels, {_OPTIONS}, str backend) -> (Tensor, Tensor)",
    lambda *args: _forward_op(args[-1], *args[:-1]),
    _fake_forward,
)
_backward: Callable[..., Tensor] = define(
    f"cross_entropy_backward(Tensor d_loss, Tensor logits, Tensor labels, Tensor stats, {_OPTIONS}, str backend)"
    " -> Tensor",
    lambda *args: _backward_op(args[-1], *args[:-1]),
    _fake_backward,
)
_fused: Callable[..., tuple[Tensor, Tensor, Tensor]] = define(
    f"fused_linear_cross_entropy(Tensor hidden, Tensor weight, Tensor labels, int out_features, {_OPTIONS},"
    " bool of_hidden, bool of_weight, str backend) -> (Tensor, Tensor, Tensor)",
    lambda *args: _fused_op(args[-1], *args[:-1]),
    _fake_fused,
)
_fused_backward: Callable[..., tuple[Tensor, Tensor]] = define(
    "fused_linear_cross_entropy_backward(Tensor d_loss, Tensor d_hidden, Tensor d_weight, str backend)"
    " -> (Tensor, Tensor)",
    lambda *args: _scaled(*args[:-1]),
    lambda *args: _scaled(*args[:-1]),
)
