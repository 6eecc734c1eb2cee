"""swiglu: schema, registration, autograd and the public function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lynx_engine.contract import as_rows, dense_like
from lynx_engine.errors import LynxError
from lynx_engine.registry import Op, define, tensor_refusals

from .reference import swiglu_backward_reference, swiglu_reference

__all__ = ["swiglu"]


def swiglu(gate: Tensor, up: Tensor, *, backend: str = "auto") -> Tensor:
    """silu(gate) * up, with gradients for both: the gated activation of LLaMA's MLP.

    gate, up [..., N], also the two halves of one product; returns [..., N] in gate's dtype, computed in float32 and
    rounded once. float32 and bfloat16 have kernels.
    LynxError: shapes that differ, or a `backend` that cannot run the call.
    """
    if torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad):
        return _Swiglu.apply(gate, up, backend)
    return _forward(gate, up, backend)


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, backend: str) -> Tensor:
        ctx.backend = backend
        ctx.save_for_backward(gate, up)
        return _forward(gate, up, backend)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return (*_backward(dy, *ctx.saved_tensors, ctx.backend), None)


def _check_shapes(gate: Tensor, up: Tensor) -> None:
    if gate.dim() == 0:
        raise LynxError("swiglu: gate must be [..., N], got []")
    if gate.shape != up.shape:
        raise LynxError(f"swiglu: up must be {list(gate.shape)} as gate is, got {list(up.shape)}")


def _native_forward(kernel: Callable[..., None], gate: Tensor, up: Tensor) -> Tensor:
    _check_shapes(gate, up)
    y = dense_like(gate)
    kernel(as_rows("swiglu", "gate", gate), as_rows("swiglu", "up", up), y)
    return y


def _native_backward(kernel: Callable[..., None], dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    outputs = dense_like(gate), dense_like(up)
    kernel(*(as_rows("swiglu", name, t) for name, t in (("dy", dy), ("gate", gate), ("up", up))), *outputs)
    return outputs


def _reference_forward(gate: Tensor, up: Tensor) -> Tensor:
    _check_shapes(gate, up)
    return swiglu_reference(gate, up)


def _fake_forward(gate: Tensor, up: Tensor, backend: str) -> Tensor:
    _check_shapes(gate, up)
    return dense_like(gate)


def _fake_backward(dy: Tensor, gate: Tensor, up: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return dense_like(gate), dense_like(up)


_forward_op = Op("swiglu", reference=_reference_forward, native=_native_forward, refusals=tensor_refusals, triton=True)
_backward_op = Op(
    "swiglu_backward",
    reference=swiglu_backward_reference,
    native=_native_backward,
    refusals=tensor_refusals,
    triton=True,
)

_forward: Callable[..., Tensor] = define(
    "swiglu(Tensor gate, Tensor up, str backend) -> Tensor",
    lambda *args: _forward_op(args[-1], *args[:-1]),
    _fake_forward,
)
_backward: Callable[..., tuple[Tensor, Tensor]] = define(
    "swiglu_backward(Tensor dy, Tensor gate, Tensor up, str backend) -> (Tensor, Tensor)",
    lambda *args: _backward_op(args[-1], *args[:-1]),
    _fake_backward,
)
