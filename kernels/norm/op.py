"""rms_norm, layer_norm, and both after a residual addition: schemas, registration, autograd, public functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lynx_engine.contract import Contract, as_rows, dense_like
from lynx_engine.errors import LynxError
from lynx_engine.registry import Op, Takes, define, tensor_refusals

from .reference import (
    add_layer_norm_reference,
    add_rms_norm_reference,
    layer_norm_reference,
    norm_backward_reference,
    rms_norm_reference,
)

__all__ = ["add_layer_norm", "add_rms_norm", "layer_norm", "rms_norm"]


def rms_norm(x: Tensor, weight: Tensor, *, eps: float = 1e-6, backend: str = "auto") -> Tensor:
    """weight * (x / sqrt(mean(x^2) + eps)), with gradients for both.

    x [..., D], weight [D]; returns [..., D] in x's dtype. The mean is float32; the quotient is rounded to x's dtype
    before the product, as in the authors' stack (REFERENCE.md section 5.1). float32 and bfloat16 have kernels. A row's
    result does not depend on the other rows.
    LynxError: shapes that do not agree, or a `backend` that cannot run the call.
    """
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Norm.apply("rms_norm", x, weight, None, eps, backend)
    return _FORWARD["rms_norm"](x, None, weight, None, eps, backend)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-5, backend: str = "auto") -> Tensor:
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias, with gradients for all three; arguments as in `rms_norm`.

    bias [D]. Computed in float32 and rounded once, as torch does.
    """
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or bias.requires_grad):
        return _Norm.apply("layer_norm", x, weight, bias, eps, backend)
    return _FORWARD["layer_norm"](x, None, weight, bias, eps, backend)


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, *, eps: float = 1e-6, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """(rms_norm(x + residual), x + residual) in one pass: the step from one half of a pre-norm block to the next.

    x, residual [..., D]; the sum is rounded to their dtype before it is normalised, as if it had been stored.
    """
    if torch.is_grad_enabled() and (x.requires_grad or residual.requires_grad or weight.requires_grad):
        return _AddNorm.apply("add_rms_norm", x, residual, weight, None, eps, backend)
    return _FORWARD["add_rms_norm"](x, residual, weight, None, eps, backend)


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-5, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """(layer_norm(x + residual), x + residual) in one pass; arguments as in `add_rms_norm` and `layer_norm`."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, residual, weight, bias)):
        return _AddNorm.apply("add_layer_norm", x, residual, weight, bias, eps, backend)
    return _FORWARD["add_layer_norm"](x, residual, weight, bias, eps, backend)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, name: str, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, backend: str
    ) -> Tensor:
        ctx.name, ctx.eps, ctx.backend = name, eps, backend
        ctx.save_for_backward(x, weight)
        return _FORWARD[name](x, None, weight, bias, eps, backend)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        of_weights = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        dx, *of = _BACKWARD[ctx.name](dy, None, *ctx.saved_tensors, ctx.eps, of_weights, ctx.backend)
        d_weight, d_bias = _asked_for(of, ctx.needs_input_grad[2:4])
        return None, dx, d_weight, d_bias, None, None


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, name: str, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, backend: str
    ) -> tuple[Tensor, Tensor]:
        ctx.name, ctx.eps, ctx.backend = name, eps, backend
        ctx.set_materialize_grads(False)
        y, added = _FORWARD[name](x, residual, weight, bias, eps, backend)
        ctx.save_for_backward(added, weight)
        return y, added

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor | None, d_sum: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:  # nothing was made of the norm
            return None, d_sum, d_sum, None, None, None, None
        of_weights = ctx.needs_input_grad[3] or ctx.needs_input_grad[4]
        dx, *of = _BACKWARD[ctx.name](dy, d_sum, *ctx.saved_tensors, ctx.eps, of_weights, ctx.backend)
        d_weight, d_bias = _asked_for(of, ctx.needs_input_grad[3:5])
        return None, dx, dx, d_weight, d_bias, None, None


def _asked_for(gradients: Sequence[Tensor], asked: Sequence[bool]) -> list[Tensor | None]:
    return [gradient if wanted else None for gradient, wanted in zip(gradients, asked, strict=True)]


def _check_residual(name: str, x: Tensor, residual: Tensor | None) -> None:
    if residual is not None and residual.shape != x.shape:
        raise LynxError(f"{name}: residual must be {list(x.shape)} as x is, got {list(residual.shape)}")


def _check_shapes(name: str, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None) -> None:
    contract = Contract(name)
    contract.expect("x", x, "... D")
    contract.expect("weight", weight, "D")
    if bias is not None:
        contract.expect("bias", bias, "D")
    _check_residual(name, x, residual)


def _refusals(takes: Takes, *args: Any) -> Sequence[str]:
    return tensor_refusals(takes, *args[:4])  # the options follow the four tensors


class _NormOps:
    """One norm as two ops of torch with their backends; arguments that it does not have are None."""

    def __init__(self, name: str, reference: Callable[..., Any]) -> None:
        self.name, self.reference = name, reference
        self.adds, self.centred = name.startswith("add_"), name.endswith("layer_norm")
        forward = Op(name, reference=self._reference, native=self._native, refusals=_refusals, triton=True)
        backward = Op(
            f"{name}_backward",
            reference=self._reference_backward,
            native=self._native_backward,
            refusals=_refusals,
            triton=True,
        )
        self.forward = define(
            f"{name}(Tensor x, Tensor? residual, Tensor weight, Tensor? bias, float eps, str backend)"
            f" -> {'(Tensor, Tensor)' if self.adds else 'Tensor'}",
            lambda *args: forward(args[-1], *args[:-1]),
            self._fake,
        )
        self.backward = define(
            f"{name}_backward(Tensor dy, Tensor? d_sum, Tensor x, Tensor weight, float eps, bool of_weights,"
            " str backend) -> (Tensor, Tensor, Tensor)",
            lambda *args: backward(args[-1], *args[:-1]),
            self._outputs_backward,
        )

    def _reference(self, x: Tensor, residual: Any, weight: Tensor, bias: Any, eps: float) -> Any:
        _check_shapes(self.name, x, residual, weight, bias)
        return self.reference(*[t for t in (x, residual, weight, bias) if t is not None], eps=eps)

    def _fake(self, x: Tensor, residual: Any, weight: Tensor, bias: Any, *_: Any) -> Any:
        _check_shapes(self.name, x, residual, weight, bias)
        return (dense_like(x), dense_like(x)) if self.adds else dense_like(x)

    def _native(
        self, kernel: Callable[..., None], x: Tensor, residual: Any, weight: Tensor, bias: Any, eps: float
    ) -> Any:
        _check_residual(self.name, x, residual)
        y, added = dense_like(x), dense_like(x) if self.adds else None
        bias = None if bias is None else bias.contiguous()
        kernel(_rows(self.name, x), _rows(self.name, residual), weight.contiguous(), bias, eps, y, added)
        return (y, added) if self.adds else y

    def _reference_backward(
        self, dy: Tensor, d_sum: Any, x: Tensor, weight: Tensor, eps: float, of_weights: bool
    ) -> tuple[Tensor, ...]:
        gradients = norm_backward_reference(dy, d_sum, x, weight, eps=eps, centred=self.centred)
        none = self._outputs_backward(dy, d_sum, x, weight, eps, of_weights)
        return tuple(g if empty.numel() else empty for g, empty in zip(gradients, none, strict=True))

    def _outputs_backward(
        self, dy: Tensor, d_sum: Any, x: Tensor, weight: Tensor, eps: float, of_weights: bool, *_: Any
    ) -> tuple[Tensor, ...]:
        """Memory for dx, d_weight and d_bias; what is not asked for has no elements."""
        size = weight.shape[0]
        return (
            dense_like(x),
            weight.new_empty(size if of_weights else 0),
            weight.new_empty(size if of_weights and self.centred else 0),
        )

    def _native_backward(
        self, kernel: Callable[..., None], dy: Tensor, d_sum: Any, x: Tensor, weight: Tensor, *options: Any
    ) -> tuple[Tensor, ...]:
        eps, of_weights = options
        dx, d_weight, d_bias = outputs = self._outputs_backward(dy, d_sum, x, weight, *options)
        dy, d_sum, x = (_rows(self.name, t) for t in (dy, d_sum, x))
        kernel(dy, d_sum, x, weight.contiguous(), eps, dx, *((d_weight, d_bias) if of_weights else (None, None)))
        return outputs


def _rows(name: str, tensor: Any) -> Any:
    return None if tensor is None else as_rows(name, "x", tensor)


_OPS = {
    "rms_norm": _NormOps("rms_norm", rms_norm_reference),
    "layer_norm": _NormOps("layer_norm", layer_norm_reference),
    "add_rms_norm": _NormOps("add_rms_norm", add_rms_norm_reference),
    "add_layer_norm": _NormOps("add_layer_norm", add_layer_norm_reference),
}
_FORWARD: dict[str, Callable[..., Any]] = {name: op.forward for name, op in _OPS.items()}
_BACKWARD: dict[str, Callable[..., tuple[Tensor, ...]]] = {name: op.backward for name, op in _OPS.items()}
