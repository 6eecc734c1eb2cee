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
from ..packing import STRIP
from .weight import CodedWeight, FloatWeight, Weight, in_turn, side_by_side


class Linear(nn.Linear):
    """residual + activation(norm(x) weight^T + bias).

    `weight` is [N, K], or after `pack` the strips of `ops.pack_linear`, without a second copy. State dicts hold [N, K]
    always; loading, `.to(...)` and `unpack` bring it back.
    After `quantize` there is no weight: `codes` and `scales` of `ops.quantize_linear` stand for it, in state dicts too.
    They lie in strips from the beginning; a Joint lays them beside others.
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

    def held(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """weight, codes and scales, straight from nn.Module's tables: a decode step asks for all, and as attributes
        they take 0.3 us each."""
        return self._parameters["weight"], self._buffers["codes"], self._buffers["scales"]

    def strips(self) -> Weight | None:
        """The weight where it lies in strips, packed or quantised."""
        weight, codes, scales = self.held()
        if codes is not None and scales is not None:
            return CodedWeight(codes, scales)
        return None if weight is None or weight.dim() == 2 else FloatWeight(weight)

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

    def hold_strips(self, weight: Weight) -> None:
        """Take `weight` for the same numbers elsewhere in memory."""
        if isinstance(weight, FloatWeight):
            self.hold(*weight.tensors)
        else:
            self.hold_codes(*weight.tensors)

    def forward(
        self,
        x: Tensor,
        *,
        norm: nn.LayerNorm | None = None,
        activation: str | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """x [..., K], residual [..., N] -> [..., N]; activation None, "silu" or "gelu" (by erf)."""
        weight = self.strips()
        if weight is None and runs_plain(self.weight):
            y = F.linear(x if norm is None else norm(x), self.weight, self.bias)
            y = y if activation is None else getattr(F, activation)(y)
            return y if residual is None else residual + y
        return (weight or FloatWeight(self.weight)).product(
            x, self.bias, norm=norm, out_features=self.out_features, activation=activation, residual=residual
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
        given = any(prefix + name in state_dict for name in ("codes", "scales", "bias"))
        if given and self.codes is not None and self.scales is not None:  # copies: a Joint of these is one no more
            self.hold_codes(self.codes.clone(), self.scales.clone())
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.unpack()  # strips of another dtype lie otherwise
        moved = super()._apply(fn, recurse)
        if self.scales is not None:
            self.scales = self.scales.bfloat16()  # whatever the model computes in
        return moved


class Joint:
    """Several Linears of one input as one product, where all are frozen and packed together, or quantised alike; else
    one by one.

    The Linears stay the modules that they are, and hold views of the joint weight. `gated` are (gate, up) of SwiGLU,
    strip by strip.
    """

    def __init__(self, *linears: Linear, gated: bool = False) -> None:
        self.linears = linears
        self.gated = gated
        self._weight: Weight | None = None
        self._bias: Tensor | None = None
        self._views: list[tuple[Tensor | None, ...]] = []  # what each held when all were laid together
        self._columns: list[tuple[int, int]] = []  # of each, the first in the joint product and how many
        self.even = False  # all of one width, without padding

    def pack(self) -> None:
        """Lay all together, if they are not, where all are in CPU memory and either to be packed or quantised alike."""
        if self.strips() is not None or not all(linear.can_pack() or linear.quantized for linear in self.linears):
            return
        if not all(tensor is None or tensor.is_cpu for linear in self.linears for tensor in linear.held()):
            return
        weights = [linear.strips() or FloatWeight(ops.pack_linear(linear.weight.detach())) for linear in self.linears]
        if any(weight.layout != weights[0].layout for weight in weights):
            return
        if not self.gated:
            begins = [0, *itertools.accumulate(weight.strips * STRIP for weight in weights)]
            self._columns = [(b, linear.out_features) for b, linear in zip(begins, self.linears, strict=False)]
            self.even = self._columns == [(i * begins[1], begins[1]) for i in range(len(weights))]
            self._bias = _joint_bias(self.linears, self._columns, begins[-1])
        self._weight, views = (in_turn if self.gated else side_by_side)(weights)
        for linear, view in zip(self.linears, views, strict=True):
            linear.hold_strips(view)
        self._views = [linear.held() for linear in self.linears]

    def __call__(self, x: Tensor, *, norm: nn.LayerNorm | None = None) -> tuple[Tensor, ...]:
        """What each Linear makes of norm(x)."""
        weight = self.strips()
        if weight is None:
            return tuple(linear(x, norm=norm) for linear in self.linears)
        y = weight.product(x, self._bias, norm=norm)
        return tuple(y.narrow(-1, begin, count) for begin, count in self._columns)

    def heads(self, x: Tensor, num_heads: int, *, norm: nn.LayerNorm | None = None) -> Sequence[Tensor]:
        """The same as [..., H, D]; for Linears of one width, two views of the joint product (a part alone takes three,
        of 1 us each)."""
        weight = self.strips()
        if weight is None or not self.even:
            return [part.unflatten(-1, (num_heads, -1)) for part in self(x, norm=norm)]
        y = weight.product(x, self._bias, norm=norm)
        return y.view(*y.shape[:-1], len(self.linears), num_heads, -1).unbind(-3)

    def swiglu(self, x: Tensor) -> Tensor:
        """silu(gate(x)) * up(x) of a gated pair.

        In the product's epilogue; but not where a gradient is wanted, which would compute the product once more.
        """
        weight, width = self.strips(), self.linears[0].out_features
        if weight is None:
            gate, up = (linear(x) for linear in self.linears)
            return ops.swiglu(gate, up)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return weight.product(x, out_features=width, activation="gated_silu")
        gate, up = weight.product(x).view(-1, 2, STRIP).unbind(1)  # strip by strip
        return ops.swiglu(gate, up).view(*x.shape[:-1], -1)[..., :width]

    def strips(self) -> Weight | None:
        """The joint weight, while every Linear holds its view; loading, moving and unpacking replace the views."""
        for linear, view in zip(self.linears, self._views, strict=False):
            weight, codes, scales = linear.held()
            if weight is not view[0] or codes is not view[1] or scales is not view[2]:
                self._weight, self._bias, self._views = None, None, []
        return self._weight


def pack_frozen(model: nn.Module) -> None:
    """Pack every frozen Linear of `model` in CPU memory, tensor by tensor; those of a Joint together, quantised too."""
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


def _joint_bias(linears: Sequence[Linear], columns: Sequence[tuple[int, int]], width: int) -> Tensor | None:
    """The biases where the columns are, zeros elsewhere: for a Linear without one, and for padding."""
    biases = [linear.bias for linear in linears]
    bias = next((b.detach().new_zeros(width) for b in biases if b is not None), None)
    for part, (begin, count) in zip(biases, columns, strict=True):
        if bias is not None and part is not None:
            bias[begin : begin + count] = part.detach()
    return bias
