"""prefix_attention: schemas, registration, autograd and the public functions, dense and packed.

In this file `mask` stands for the tensors between v and the options: (prefix_lens, kv_mask) of the dense form,
(cu_seqlens_q, cu_seqlens_k, prefix_lens) of the packed one. The options are causal, softmax_scale, backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lynx_engine.contract import Contract
from lynx_engine.errors import LynxError
from lynx_engine.registry import Op, Takes, define, tensor_refusals

from .paged import paged_attention
from .reference import (
    prefix_attention_backward_reference,
    prefix_attention_stats_reference,
    prefix_attention_varlen_backward_reference,
    prefix_attention_varlen_stats_reference,
)

__all__ = ["paged_attention", "prefix_attention", "prefix_attention_varlen"]

MAX_HEAD_DIM = 256
_Forward = Callable[..., tuple[Tensor, Tensor]]


def prefix_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    prefix_lens: Tensor | None = None,
    causal: bool = True,
    kv_mask: Tensor | None = None,
    softmax_scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """softmax(mask(q k^T * softmax_scale)) v, with gradients for q, k and v.

    q [B, Sq, H, D], k and v [B, Sk, H, D] -> o [B, Sq, H, D] in q's dtype. softmax_scale: D**-0.5 by default.
    causal: query i stands at position p = i + Sk - Sq (the last query at the last key) and sees the keys j <= p.
    prefix_lens, int [B]: the first prefix_lens[b] positions also see each other in both directions (PrefixLM).
    kv_mask, bool or int [B, Sk]: 0 hides a key, wherever it stands (padding between a prefix and a text).
    A row that sees no key attends uniformly over all Sk keys, as under the authors' additive masks.

    float32 and bfloat16 with D <= 256 have kernels; every other call runs on the reference. Scores and softmax are
    float32 (float64 for float64). A row's result does not depend on the batch around it or on the thread count.

    LynxError: shapes that do not agree, or a `backend` that cannot run the call.
    Source: Lynx (arXiv 2307.02469) section 2; online softmax as in FlashAttention (arXiv 2205.14135).
    """
    args = (q, k, v, prefix_lens, kv_mask, causal, _scale(q, softmax_scale), backend)
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return _differentiable(*_distinct(args))
    o, _ = _forward(*args)
    return o


def prefix_attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    prefix_lens: Tensor | None = None,
    causal: bool = True,
    softmax_scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """`prefix_attention` on sequences packed one after the other, each attending within itself.

    q [Tq, H, D], k and v [Tk, H, D] -> o [Tq, H, D]. cu_seqlens_q, cu_seqlens_k, int [B + 1], rise from 0 to Tq and Tk:
    sequence b owns the rows cu_seqlens[b] to cu_seqlens[b + 1]. Everything else as in `prefix_attention`.
    """
    args = (q, k, v, cu_seqlens_q, cu_seqlens_k, prefix_lens, causal, _scale(q, softmax_scale), backend)
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return _varlen_differentiable(*_distinct(args))
    o, _ = _varlen_forward(*args)
    return o


def _scale(q: Tensor, softmax_scale: float | None) -> float:
    return max(1, q.shape[-1]) ** -0.5 if softmax_scale is None else softmax_scale


def _distinct(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """torch.compile refuses an autograd.Function that gets one tensor twice, as k and v or as both bounds of a pack."""
    if not torch.compiler.is_compiling():
        return args
    return tuple(x.view_as(x) if isinstance(x, Tensor) else x for x in args)


class _PrefixAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        o, stats = _forward(*args)
        ctx.save_for_backward(*args[:3], o, stats, *args[3:-3])
        ctx.options = args[-3:]
        return o

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_o: Tensor) -> tuple[Tensor | None, ...]:
        return (*_backward(d_o, *ctx.saved_tensors, *ctx.options), *[None] * 5)


class _PrefixAttentionVarlen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        o, stats = _varlen_forward(*args)
        ctx.save_for_backward(*args[:3], o, stats, *args[3:-3])
        ctx.options = args[-3:]
        return o

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_o: Tensor) -> tuple[Tensor | None, ...]:
        return (*_varlen_backward(d_o, *ctx.saved_tensors, *ctx.options), *[None] * 6)


_differentiable: Callable[..., Tensor] = _PrefixAttention.apply
_varlen_differentiable: Callable[..., Tensor] = _PrefixAttentionVarlen.apply


def check_shapes(q: Tensor, k: Tensor, v: Tensor, prefix_lens: Tensor | None, kv_mask: Tensor | None) -> None:
    contract = Contract("prefix_attention")
    contract.expect("q", q, "B Sq H D")
    contract.expect("k", k, "B Sk H D")
    contract.expect("v", v, "B Sk H D")
    if prefix_lens is not None:
        contract.expect("prefix_lens", prefix_lens, "B")
    if kv_mask is not None:
        contract.expect("kv_mask", kv_mask, "B Sk")


def check_varlen_shapes(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, prefix_lens: Tensor | None
) -> None:
    contract = Contract("prefix_attention_varlen")
    contract.expect("q", q, "Tq H D")
    contract.expect("k", k, "Tk H D")
    contract.expect("v", v, "Tk H D")
    contract.expect("cu_seqlens_q", cu_seqlens_q, "B+1")
    contract.expect("cu_seqlens_k", cu_seqlens_k, "B+1")
    if prefix_lens is not None:
        contract.expect("prefix_lens", prefix_lens, str(cu_seqlens_q.shape[0] - 1))


def _check_bounds(name: str, cu_seqlens: Tensor, num_rows: int) -> None:
    bounds = cu_seqlens.tolist()
    if bounds != sorted(bounds) or bounds[:1] != [0] or bounds[-1] != num_rows:
        raise LynxError(
            f"prefix_attention_varlen: {name} must rise from 0 to {num_rows}, the number of packed rows, got {bounds}"
        )


def _stats_shape(q: Tensor) -> tuple[int, ...]:
    """[B, Sq, H, D] -> [B, H, Sq, 2], [Tq, H, D] -> [H, Tq, 2]."""
    shape = tuple(q.shape)
    return (*shape[:-3], *shape[-2:-1], *shape[-3:-2], 2)


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _refusals(takes: Takes, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Sequence[str]:
    reasons = tensor_refusals(takes, q, k, v)
    if 1 <= q.shape[-1] <= MAX_HEAD_DIM:
        return reasons
    return (*reasons, f"needs head_dim 1 to {MAX_HEAD_DIM} (got {q.shape[-1]})")


def _backward_refusals(takes: Takes, d_o: Tensor, *args: Any) -> Sequence[str]:
    return _refusals(takes, *args)


def _native_mask(*mask: Tensor | None) -> list[Tensor | None]:
    """Rows of bool for kv_mask [B, Sk], contiguous int32 for lengths and bounds."""
    return [None if x is None else _bools(x) if x.dim() == 2 else x.to(torch.int32).contiguous() for x in mask]


def _bools(x: Tensor) -> Tensor:
    return _rows(x if x.dtype is torch.bool else x != 0)


def _empty_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _native_forward(kernel: Callable[..., None], q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *mask, causal, scale = rest
    o = _empty_like(q)
    stats = torch.empty(_stats_shape(q), dtype=torch.float32, device=q.device)
    kernel(_rows(q), _rows(k), _rows(v), *_native_mask(*mask), causal, scale, o, stats)
    return o, stats


def _native_backward(kernel: Callable[..., None], d_o: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    q, k, v, o, stats, *mask, causal, scale = rest
    gradients = [_empty_like(x) for x in (q, k, v)]
    tensors = [_rows(x) for x in (d_o, q, k, v, o)]
    kernel(*tensors, stats, *_native_mask(*mask), causal, scale, *gradients)
    return tuple(gradients)


def _reference_forward(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    prefix_lens, kv_mask, causal, scale = rest
    check_shapes(q, k, v, prefix_lens, kv_mask)
    o, stats = prefix_attention_stats_reference(
        q, k, v, prefix_lens=prefix_lens, kv_mask=kv_mask, causal=causal, softmax_scale=scale
    )
    return o.contiguous(), stats


def _reference_varlen_forward(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    cu_seqlens_q, cu_seqlens_k, prefix_lens, causal, scale = rest
    check_varlen_shapes(q, k, v, cu_seqlens_q, cu_seqlens_k, prefix_lens)
    _check_bounds("cu_seqlens_q", cu_seqlens_q, q.shape[0])
    _check_bounds("cu_seqlens_k", cu_seqlens_k, k.shape[0])
    o, stats = prefix_attention_varlen_stats_reference(
        q, k, v, cu_seqlens_q, cu_seqlens_k, prefix_lens=prefix_lens, causal=causal, softmax_scale=scale
    )
    return o.contiguous(), stats


def _reference_backward(d_o: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    q, k, v, _, _, prefix_lens, kv_mask, causal, scale = rest
    gradients = prefix_attention_backward_reference(
        d_o, q, k, v, prefix_lens=prefix_lens, kv_mask=kv_mask, causal=causal, softmax_scale=scale
    )
    return tuple(g.contiguous() for g in gradients)


def _reference_varlen_backward(d_o: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    q, k, v, _, _, cu_seqlens_q, cu_seqlens_k, prefix_lens, causal, scale = rest
    gradients = prefix_attention_varlen_backward_reference(
        d_o, q, k, v, cu_seqlens_q, cu_seqlens_k, prefix_lens=prefix_lens, causal=causal, softmax_scale=scale
    )
    return tuple(g.contiguous() for g in gradients)


def _fake_outputs(q: Tensor) -> tuple[Tensor, Tensor]:
    stats_dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty(q.shape), q.new_empty(_stats_shape(q), dtype=stats_dtype)


def _fake_forward(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    check_shapes(q, k, v, *rest[:2])
    return _fake_outputs(q)


def _fake_varlen_forward(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    check_varlen_shapes(q, k, v, *rest[:3])
    return _fake_outputs(q)


def _fake_backward(d_o: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in rest[:3])


def _run(op: Op) -> Callable[..., Any]:
    return lambda *args: op(args[-1], *args[:-1])


_OPTIONS = "bool causal, float softmax_scale, str backend"
_DENSE = f"Tensor? prefix_lens, Tensor? kv_mask, {_OPTIONS}"
_PACKED = f"Tensor cu_seqlens_q, Tensor cu_seqlens_k, Tensor? prefix_lens, {_OPTIONS}"
_SAVED = "Tensor q, Tensor k, Tensor v, Tensor o, Tensor stats"

_forward_op = Op(
    "prefix_attention", reference=_reference_forward, native=_native_forward, refusals=_refusals, triton=True
)
_backward_op = Op(
    "prefix_attention_backward",
    reference=_reference_backward,
    native=_native_backward,
    refusals=_backward_refusals,
    triton=True,
)
_varlen_forward_op = Op(
    "prefix_attention_varlen",
    reference=_reference_varlen_forward,
    native=_native_forward,
    refusals=_refusals,
    triton=True,
)
_varlen_backward_op = Op(
    "prefix_attention_varlen_backward",
    reference=_reference_varlen_backward,
    native=_native_backward,
    refusals=_backward_refusals,
    triton=True,
)

_forward: _Forward = define(
    f"prefix_attention(Tensor q, Tensor k, Tensor v, {_DENSE}) -> (Tensor, Tensor)", _run(_forward_op), _fake_forward
)
_backward = define(
    f"prefix_attention_backward(Tensor d_o, {_SAVED}, {_DENSE}) -> (Tensor, Tensor, Tensor)",
    _run(_backward_op),
    _fake_backward,
)
_varlen_forward: _Forward = define(
    f"prefix_attention_varlen(Tensor q, Tensor k, Tensor v, {_PACKED}) -> (Tensor, Tensor)",
    _run(_varlen_forward_op),
    _fake_varlen_forward,
)
_varlen_backward = define(
    f"prefix_attention_varlen_backward(Tensor d_o, {_SAVED}, {_PACKED}) -> (Tensor, Tensor, Tensor)",
    _run(_varlen_backward_op),
    _fake_backward,
)
