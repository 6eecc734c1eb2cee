"""Rows of unequal length as one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import LynxError


def pad_rows(rows: Sequence[Sequence[int]], pad_token_id: int, side: str = "left") -> tuple[torch.Tensor, torch.Tensor]:
    """(input_ids, attention_mask), int64 [len(rows), longest], padded on `side`; the mask is 0 on pads."""
    if side not in ("left", "right"):
        raise LynxError(f"padding side must be 'left' or 'right', got {side!r}")
    longest = max(map(len, rows), default=0)
    input_ids = torch.full((len(rows), longest), pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for i, row in enumerate(rows):
        columns = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
        input_ids[i, columns] = torch.tensor(row, dtype=torch.int64)
        attention_mask[i, columns] = 1
    return input_ids, attention_mask
