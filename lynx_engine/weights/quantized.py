"""Models whose linears are stored in 8 or 4 bits: what is quantised, and how it lies in a folder.

Quantised are the linears of the LLM's layers, the vision encoder and the bridge. Adapters, embeddings, norms, the patch
embedding and the output head stay in the folder's dtype: together a tenth of Lynx-8B, and the head decides the token.
`NAME.weight` becomes `NAME.codes` (uint8) and `NAME.scales` (bfloat16) of `ops.quantize_linear`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..errors import LynxError
from ..model import LynxModel
from ..model.linear import Linear
from .fit import Shape

_KEPT = ("LLM.lm_head",)


@dataclass(frozen=True)
class Quantization:
    """format "int8" or "int4"; group_size None: a row for int8, 32 for int4. LynxError for what there is not."""

    format: str
    group_size: int | None = None

    def __post_init__(self) -> None:
        depth, groups = 4096, ops.quantized_shapes(16, 4096, self.format, self.group_size)[1][1]
        object.__setattr__(self, "group_size", None if groups == 1 else depth // groups)

    def __str__(self) -> str:
        return f"{self.format}, {f'groups of {self.group_size}' if self.group_size else 'one scale a row'}"

    @classmethod
    def from_json(cls, value: Any, where: str) -> Quantization | None:
        """What `to_json` gave; None where nothing is quantised."""
        if value is None:
            return None
        if not isinstance(value, dict) or set(value) != {"format", "group_size"}:
            raise LynxError(f"{where}: wanted format and group_size under quantization, got {value!r}")
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        return {"format": self.format, "group_size": self.group_size}

    def stored(
        self, model: LynxModel, shapes: Mapping[str, Shape], dtype: torch.dtype
    ) -> tuple[dict[str, Shape], dict[str, torch.dtype]]:
        """Shapes and dtypes of a folder's tensors, in the order of `shapes`, the model's own."""
        weights = {f"{name}.weight" for name, _ in linears(model)}
        found: dict[str, Shape] = {}
        dtypes: dict[str, torch.dtype] = {}
        for name, shape in shapes.items():
            if name not in weights:
                found[name], dtypes[name] = shape, dtype
                continue
            codes, scales = _names(name)
            found[codes], found[scales] = ops.quantized_shapes(*shape, self.format, self.group_size)
            dtypes[codes], dtypes[scales] = torch.uint8, torch.bfloat16
        return found, dtypes

    def tensors(self, model: LynxModel, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """`tensors` of the model's own names as the folder's, one at a time."""
        weights = {f"{name}.weight" for name, _ in linears(model)}
        for name, tensor in tensors:
            if name in weights:
                yield from zip(_names(name), ops.quantize_linear(tensor, self.format, self.group_size), strict=True)
            else:
                yield name, tensor

    def hold(self, model: LynxModel) -> LynxModel:
        """`model`, on the meta device, with room for codes and scales in the place of weights."""
        for _, linear in linears(model):
            shapes = ops.quantized_shapes(linear.out_features, linear.in_features, self.format, self.group_size)
            codes = torch.empty(shapes[0], dtype=torch.uint8, device="meta")
            linear.hold_codes(codes, torch.empty(shapes[1], dtype=torch.bfloat16, device="meta"))
        return model


def linears(model: LynxModel) -> Iterator[tuple[str, Linear]]:
    """The linears that quantisation is for, by name."""
    for name, module in model.named_modules():
        if isinstance(module, Linear) and name not in _KEPT:
            yield name, module


def quantize_model(model: LynxModel, quantization: Quantization) -> LynxModel:
    """Quantise a model in memory, linear by linear. LynxError where it is quantised already."""
    for name, linear in linears(model):
        if linear.quantized:
            raise LynxError(f"{name} is quantised already; quantise the model that it was made from")
        linear.quantize(quantization.format, quantization.group_size)
    return model


def _names(weight: str) -> tuple[str, str]:
    name = weight.removesuffix("weight")
    return f"{name}codes", f"{name}scales"
