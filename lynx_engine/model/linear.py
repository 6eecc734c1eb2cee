"""Linears on `ops.linear`: nn.Linear with the same names and state dict; frozen weights may be packed, or quantised.

A frozen weight on the CPU runs on `ops.linear`, forward and (dx only) backward, packed or not: with the same bits. A
weight that trains, or lies on another device, is a plain nn.Linear's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops


class Linear(nn.Linear):
    """residual + activation(norm(x) weight^T + bias).

    `weight` is [N, K], or after `pack` the strips of `ops.pack_linear`, without a second copy. State dicts hold [N, K]
    always; loading, `.to(...)` and `unpack` bring it back.
    After `quantize` there is no weight: `codes` and `scales` of `ops.quantize_linear` stand for it, in state dicts too.
    """

    codes: Tensor | None
    scales: Tensor | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("codes", None)
        self.register_buffer("scales", None)

    @property
    def quantized(self) -> bool:
        return self.codes is not None

    @property
    def packed(self) -> bool:
        return not self.quantized and self.weight.dim() != 2

    def can_pack(self) -> bool:
        """Whether there is a weight that is frozen, not packed, and in CPU memory."""
        return not self.quantized and not self.packed and self.weight.is_cpu and not self.weight.requires_grad

    def quantize(self, format: str, group_size: int | None = None) -> None:
        """Put codes and scales in the place of the weight."""
        if not self.quantized:
            self.unpack()
            self.hold_codes(*ops.quantize_linear(self.weight.detach(), format, group_size))

    def hold_codes(self, codes: Tensor, scales: Tensor) -> None:
        self.register_parameter("weight", None)
        self.codes, self.scales = codes, scales

    def pack(self) -> None:
        """Pack the weight, if it is frozen and lies in CPU memory."""
        if self.can_pack():
            self.hold(ops.pack_linear(self.weight.detach()))

    def unpack(self) -> None:
        if self.packed:
            self.hold(self._matrix())

    def hold(self, weight: Tensor) -> None:
        """Take `weight` for the same numbers in another layout."""
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(
        self,
        x: Tensor,
        *,
        norm: nn.LayerNorm | None = None,
        activation: str | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """x [..., K], residual [..., N] -> [..., N]; activation None, "silu" or "gelu" (by erf)."""
        if self.codes is not None and self.scales is not None:
            return ops.quantized_linear(
                x if norm is None else norm(x),
                self.codes,
                self.scales,
                self.bias,
                out_features=self.out_features,
                activation=activation,
                residual=residual,
            )
        weight = self.weight
        if runs_plain(weight):
            y = F.linear(x if norm is None else norm(x), weight, self.bias)
            y = y if activation is None else getattr(F, activation)(y)
            return y if residual is None else residual + y
        return ops.linear(
            x,
            weight,
            self.bias,
            out_features=self.out_features,
            activation=activation,
            residual=residual,
            **norm_arguments(norm),
        )

    def _matrix(self) -> Tensor:
        return ops.unpack_linear(self.weight.detach(), self.out_features, self.in_features)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.packed:
            destination[prefix + "weight"] = self._matrix()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if self.packed and prefix + "weight" in state_dict:
            self.hold(self.weight.new_empty(self.out_features, self.in_features))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.unpack()  # strips of another dtype lie otherwise
        moved = super()._apply(fn, recurse)
        if self.scales is not None:
            self.scales = self.scales.bfloat16()  # whatever the model computes in
        return moved


class Joint:
    """Several Linears of one input as one product, where all are frozen and packed together; else one by one.

    The Linears stay the modules that they are, and hold views of the joint strips. `gated` are (gate, up) of SwiGLU,
    strip by strip.
    """

    def __init__(self, *linears: Linear, gated: bool = False) -> None:
        self.linears = linears
        self.gated = gated
        self._strips: Tensor | None = None
        self._bias: Tensor | None = None
        self._views: tuple[Tensor, ...] = ()
        self._columns: list[tuple[int, int]] = []  # of each, the first in the joint product and how many
        self.even = False  # all of one width, without padding

    def pack(self) -> None:
        """Pack all, if none of them is packed and all are frozen."""
        if not all(linear.can_pack() for linear in self.linears):
            return
        weights = [linear.weight.detach() for linear in self.linears]
        if self.gated:
            self._strips = ops.pack_linear(*weights)
            views = self._strips.unflatten(0, (-1, 2)).unbind(1)
        else:
            packed = [ops.pack_linear(weight) for weight in weights]
            rows = [part.shape[0] * part.shape[2] for part in packed]  # strips of 16
            begins = [0, *itertools.accumulate(rows)]
            self.even = len({*rows, *(linear.out_features for linear in self.linears)}) == 1
            self._columns = [(b, linear.out_features) for b, linear in zip(begins, self.linears, strict=False)]
            self._strips = torch.cat(packed)
            self._bias = _joint_bias(self.linears, self._columns, begins[-1])
            views = self._strips.split([len(part) for part in packed])
        for linear, view in zip(self.linears, views, strict=True):
            linear.hold(view)
        self._views = tuple(linear.weight for linear in self.linears)

    def __call__(self, x: Tensor, *, norm: nn.LayerNorm | None = None) -> tuple[Tensor, ...]:
        """What each Linear makes of norm(x)."""
        strips = self.strips()
        if strips is None:
            if norm is not None and all(linear.quantized for linear in self.linears):
                x, norm = norm(x), None
            return tuple(linear(x, norm=norm) for linear in self.linears)
        y = ops.linear(x, strips, self._bias, **norm_arguments(norm))
        return tuple(y.narrow(-1, begin, count) for begin, count in self._columns)

    def heads(self, x: Tensor, num_heads: int, *, norm: nn.LayerNorm | None = None) -> Sequence[Tensor]:
        """The same as [..., H, D]; for Linears of one width, two views of the joint product (a part alone takes three,
        of 1 us each)."""
        strips = self.strips()
        if strips is None or not self.even:
            return [part.unflatten(-1, (num_heads, -1)) for part in self(x, norm=norm)]
        y = ops.linear(x, strips, self._bias, **norm_arguments(norm))
        return y.view(*y.shape[:-1], len(self.linears), num_heads, -1).unbind(-3)

    def swiglu(self, x: Tensor) -> Tensor:
        """silu(gate(x)) * up(x) of a gated pair.

        In the product's epilogue; but not where a gradient is wanted, which would compute the product once more.
        """
        strips, width = self.strips(), self.linears[0].out_features
        if strips is None:
            gate, up = (linear(x) for linear in self.linears)
            return ops.swiglu(gate, up)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return ops.linear(x, strips, out_features=width, activation="gated_silu")
        gate, up = ops.linear(x, strips).view(-1, 2, strips.shape[2]).unbind(1)  # strip by strip
        return ops.swiglu(gate, up).view(*x.shape[:-1], -1)[..., :width]

    def strips(self) -> Tensor | None:
        """The joint strips, while every Linear holds its view; loading, moving and unpacking replace the views."""
        for linear, view in zip(self.linears, self._views, strict=False):
            if linear.weight is not view:
                self._strips, self._bias, self._views = None, None, ()
        return self._strips


def pack_frozen(model: nn.Module) -> None:
    """Pack every frozen Linear of `model` in CPU memory, tensor by tensor; those of a Joint together."""
    for module in model.modules():
        for value in list(vars(module).values()):
            if isinstance(value, Joint):
                value.pack()
        if isinstance(module, Linear):
            module.pack()


def unpack_all(model: nn.Module) -> None:
    """Every Linear's weight as [N, K] again, as training it wants."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.unpack()


def runs_plain(weight: Tensor) -> bool:
    """Whether torch computes with this weight: on another device, and while it trains."""
    return not weight.is_cpu or (weight.requires_grad and torch.is_grad_enabled() and weight.dim() == 2)


def norm_arguments(norm: nn.LayerNorm | None) -> dict[str, Any]:
    return {} if norm is None else {"norm_weight": norm.weight, "norm_bias": norm.bias, "norm_eps": norm.eps}


def _joint_bias(linears: Sequence[Linear], columns: Sequence[tuple[int, int]], width: int) -> Tensor | None:
    """The biases where the columns are, zeros elsewhere: for a Linear without one, and for padding."""
    if all(linear.bias is None for linear in linears):
        return None
    bias = linears[0].weight.new_zeros(width)
    for linear, (begin, count) in zip(linears, columns, strict=True):
        if linear.bias is not None:
            bias[begin : begin + count] = linear.bias.detach()
    return bias
