"""rope and rope_append_kv: schemas, registration, autograd and the public functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lynx_engine.contract import Contract, dense_like
from lynx_engine.errors import LynxError
from lynx_engine.registry import Op, Takes, define, tensor_refusals

from .reference import rope_append_kv_reference, rope_backward_reference, rope_reference

__all__ = ["rope", "rope_append_kv"]

_TABLES = "Tensor cos, Tensor sin"


def rope(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, inplace: bool = False, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """q and k turned by their positions' angles: x * cos + rotate_half(x) * sin, with gradients for q and k.

    q [B, S, Hq, D], k [B, S, Hk, D], D even; cos, sin [B, S, D] or [1, S, D]; rotate_half((a, b)) = (-b, a).
    Each product is rounded to the dtype and then the sum, as in the authors' stack (REFERENCE.md section 5.3). float32
    and bfloat16 have kernels. `inplace` overwrites q and k and returns them; it has no gradients.
    LynxError: shapes that do not agree, an odd D, `inplace` under autograd, or a `backend` that cannot run the call.
    """
    needs_gradients = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
    if inplace:
        if needs_gradients:
            raise LynxError("rope: inplace has no gradients, and q or k requires them")
        _inplace(q, k, cos, sin, backend)
        return q, k
    if needs_gradients:
        return _Rope.apply(q, k, cos, sin, backend)
    return _forward(q, k, cos, sin, backend)


def rope_append_kv(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    starts: Tensor | None = None,
    slots: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """q turned as by `rope`; k turned and v go straight into a KV cache. No gradients: for inference.

    v [B, S, Hk, D]. A dense cache [B, max_len, Hk, D] takes token s of row b at starts[b] + s, starts int64 [B]; a
    paged one [num_slots, Hk, D] takes it at slots[b, s], slots int64 [B, S], -1 for nowhere; slots must differ.
    LynxError: as `rope`; places outside of the cache; not exactly one of `starts` and `slots`.
    """
    if (starts is None) == (slots is None):
        raise LynxError("rope_append_kv: wanted either starts (a dense cache) or slots (a paged one)")
    return _append(q, k, v, cos, sin, k_cache, v_cache, starts, slots, backend)


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        ctx.backend = backend
        ctx.save_for_backward(cos, sin)
        return _forward(q, k, cos, sin, backend)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dq: Tensor, dk: Tensor) -> tuple[Tensor | None, ...]:
        return (*_backward(dq, dk, *ctx.saved_tensors, ctx.backend), None, None, None)


def check_shapes(op: str, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
    contract = Contract(op)
    contract.expect("q", q, "B S Hq D")
    contract.expect("k", k, "B S Hk D")
    if q.shape[-1] % 2:
        raise LynxError(f"{op}: head_dim must be even, got {q.shape[-1]}")
    for name, table in (("cos", cos), ("sin", sin)):
        contract.expect(name, table, "1 S D" if table.dim() and table.shape[0] == 1 else "B S D")


def _heads(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _native(kernel: Callable[..., None], q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    outputs = dense_like(q), dense_like(k)
    kernel(_heads(q), _heads(k), cos.contiguous(), sin.contiguous(), *outputs)
    return outputs


def _native_inplace(kernel: Callable[..., None], q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
    kernel(q, k, cos.contiguous(), sin.contiguous(), q, k)


def _native_append(kernel: Callable[..., None], *args: Any) -> Tensor:
    q, k, v, cos, sin, k_cache, v_cache, starts, slots = args
    out = dense_like(q)
    places = [None if t is None else t.contiguous() for t in (starts, slots)]
    kernel(_heads(q), _heads(k), _heads(v), cos.contiguous(), sin.contiguous(), k_cache, v_cache, *places, out)
    return out


def _reference(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    check_shapes("rope", q, k, cos, sin)
    return rope_reference(q, k, cos, sin)


def _reference_inplace(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
    for tensor, rotated in zip((q, k), _reference(q, k, cos, sin), strict=True):
        tensor.copy_(rotated)


def check_append(*args: Any) -> None:
    q, k, v, cos, sin, k_cache, v_cache, starts, slots = args
    check_shapes("rope_append_kv", q, k, cos, sin)
    contract = Contract("rope_append_kv")
    contract.expect("k", k, "B S Hk D")
    contract.expect("v", v, "B S Hk D")
    contract.expect("k_cache", k_cache, "num_slots Hk D" if starts is None else "B max_len Hk D")
    contract.expect("v_cache", v_cache, "num_slots Hk D" if starts is None else "B max_len Hk D")
    contract.expect(*(("slots", slots, "B S") if starts is None else ("starts", starts, "B")))


def _reference_append(*args: Any) -> Tensor:
    check_append(*args)
    *tensors, starts, slots = args
    return rope_append_kv_reference(*tensors, starts=starts, slots=slots)


def _fake(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    check_shapes("rope", q, k, cos, sin)
    return dense_like(q), dense_like(k)


def _fake_append(*args: Any) -> Tensor:
    check_append(*args[:-1])
    return dense_like(args[0])


def _inplace_refusals(takes: Takes, *args: Any) -> Sequence[str]:
    refused = list(tensor_refusals(takes, *args))
    if args[0].stride(-1) != 1 or args[1].stride(-1) != 1:
        refused.append("needs q and k with contiguous heads to overwrite")
    return refused


def _append_refusals(takes: Takes, *args: Any) -> Sequence[str]:
    refused = list(tensor_refusals(takes, *args[:7]))
    if args[5].stride(-1) != 1 or args[6].stride(-1) != 1:
        refused.append("needs caches with contiguous heads")
    return refused


_forward_op = Op("rope", reference=_reference, native=_native, refusals=tensor_refusals, triton=True)
_backward_op = Op(
    "rope_backward", reference=rope_backward_reference, native=_native, refusals=tensor_refusals, triton=True
)
_inplace_op = Op("rope_", reference=_reference_inplace, native=_native_inplace, refusals=_inplace_refusals, triton=True)
_append_op = Op(
    "rope_append_kv", reference=_reference_append, native=_native_append, refusals=_append_refusals, triton=True
)

_forward: Callable[..., tuple[Tensor, Tensor]] = define(
    f"rope(Tensor q, Tensor k, {_TABLES}, str backend) -> (Tensor, Tensor)",
    lambda *args: _forward_op(args[-1], *args[:-1]),
    _fake,
)
_backward: Callable[..., tuple[Tensor, Tensor]] = define(
    f"rope_backward(Tensor dq, Tensor dk, {_TABLES}, str backend) -> (Tensor, Tensor)",
    lambda *args: _backward_op(args[-1], *args[:-1]),
    _fake,
)
_inplace: Callable[..., None] = define(
    f"rope_(Tensor(a!) q, Tensor(b!) k, {_TABLES}, str backend) -> ()",
    lambda *args: _inplace_op(args[-1], *args[:-1]),
    lambda *args: None,
)
_append: Callable[..., Tensor] = define(
    f"rope_append_kv(Tensor q, Tensor k, Tensor v, {_TABLES}, Tensor(a!) k_cache, Tensor(b!) v_cache,"
    " Tensor? starts, Tensor? slots, str backend) -> Tensor",
    lambda *args: _append_op(args[-1], *args[:-1]),
    _fake_append,
)
