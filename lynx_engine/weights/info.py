"""How large the parts of a model are, counted without allocating it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..config import LynxConfig
from .fit import meta_model

PARTS = ("vision_encoder", "bridge", "LLM", "adapters", "absolute_frame_pos_embed")
"""The LLM is without its adapters."""


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters by part."""

    parts: Mapping[str, int]
    trained: int

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def count_parameters(config: LynxConfig) -> ParameterCounts:
    """Counts of PARTS."""
    parts = dict.fromkeys(PARTS, 0)
    trained = 0
    for name, parameter in meta_model(config).named_parameters():
        parts[part_of(name)] += parameter.numel()
        trained += parameter.numel() if parameter.requires_grad else 0
    return ParameterCounts(parts, trained)


def part_of(name: str) -> str:
    """Which of PARTS the tensor `name` of a model belongs to."""
    return "adapters" if ".output_adapter." in name else name.partition(".")[0]
