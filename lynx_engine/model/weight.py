"""What an op of linears takes for its weight: one tensor of numbers, or codes with scales.

Both lie in strips of 16 rows along their first axis. So weights are laid side by side, or strip by strip in turn,
tensor by tensor, whatever is in them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import ops, registry


class Weight(ABC):
    """`tensors` of one weight, in the order in which its op takes them."""

    op: ClassVar[str]

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    @abstractmethod
    def product(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        *,
        norm: nn.LayerNorm | None = None,
        out_features: int | None = None,
        activation: str | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """residual + activation(norm(x) weight^T + bias), [..., out_features or all rows]."""

    @abstractmethod
    def prepare(self, x: Tensor) -> Prepared | None:
        """The kernel for rows like x [M, K] and weights like this one; None where there is none."""

    @property
    def strips(self) -> int:
        return self.tensors[0].shape[0]

    @property
    def layout(self) -> tuple[Any, ...]:
        """Equal for weights that may lie in one."""
        return (self.op, *((t.dtype, t.shape[1:]) for t in self.tensors))


# (x [M, K], a weight like the one prepared, residual [M, N] or None, activation, y [M, N]): y is written.
Prepared = Callable[[Tensor, Weight, Tensor | None, str, Tensor], None]


class FloatWeight(Weight):
    """[N, K] or what `ops.pack_linear` makes of it, in the dtype of x."""

    op = "linear"

    def product(
        self, x: Tensor, bias: Tensor | None = None, *, norm: nn.LayerNorm | None = None, **options: Any
    ) -> Tensor:
        if norm is not None:
            options |= {"norm_weight": norm.weight, "norm_bias": norm.bias, "norm_eps": norm.eps}
        return ops.linear(x, *self.tensors, bias, **options)

    def prepare(self, x: Tensor) -> Prepared | None:
        kernel = registry.ops()[self.op].kernel(x, *self.tensors, None, None, None, None)
        if kernel is None:
            return None
        return lambda x, weight, residual, activation, y: kernel(
            x, *weight.tensors, None, residual, None, None, activation, 1.0, 0.0, y
        )


class CodedWeight(Weight):
    """Codes and scales of `ops.quantize_linear`."""

    op = "quantized_linear"

    def product(
        self, x: Tensor, bias: Tensor | None = None, *, norm: nn.LayerNorm | None = None, **options: Any
    ) -> Tensor:
        return ops.quantized_linear(x if norm is None else norm(x), *self.tensors, bias, **options)

    def prepare(self, x: Tensor) -> Prepared | None:
        kernel = registry.ops()[self.op].kernel(x, *self.tensors, None, None)
        if kernel is None:
            return None
        return lambda x, weight, residual, activation, y: kernel(x, *weight.tensors, None, residual, activation, 1.0, y)


def side_by_side(weights: Sequence[Weight]) -> tuple[Weight, list[Weight]]:
    """One weight with the columns of all, one after the other, and views of it that are each."""
    tensors = [torch.cat(parts) for parts in zip(*(w.tensors for w in weights), strict=True)]
    views = zip(*(t.split([w.strips for w in weights]) for t in tensors), strict=True)
    return _alike(weights[0], tensors), [_alike(weights[0], view) for view in views]


def in_turn(weights: Sequence[Weight]) -> tuple[Weight, list[Weight]]:
    """One weight with a strip of each in turn, as gated activations want it, and views of it that are each."""
    tensors = [torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*(w.tensors for w in weights), strict=True)]
    views = zip(*(t.unflatten(0, (-1, len(weights))).unbind(1) for t in tensors), strict=True)
    return _alike(weights[0], tensors), [_alike(weights[0], view) for view in views]


def _alike(weight: Weight, tensors: Sequence[Tensor]) -> Weight:
    return type(weight)(*tensors)
