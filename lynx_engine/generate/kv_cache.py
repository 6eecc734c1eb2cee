"""Keys and values of the positions already seen, appended in place."""

from __future__ import annotations

import torch
from torch import Tensor

_SPARE_POSITIONS = 64


class KVCache:
    """One tensor [layers, 2, rows, capacity, H, D] in the dtype of the first keys.

    Positions up to the end of the prompt never differ between rows that came from the same prompt, so moving beams
    between such rows copies only what was generated: `reorder` is two indexed copies for all layers together.
    """

    def __init__(self, num_layers: int) -> None:
        self.num_layers = num_layers
        self.length = 0
        self._memory: Tensor | None = None
        self._prompt_length = 0
        self._prompts: list[int] = []  # of each row, the prompt it continues

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k, v [B, S, H, D] of one layer; returns views [B, length + S, H, D] of all its keys and values."""
        rows, num_tokens = k.shape[:2]
        end = self.length + num_tokens
        if self._memory is None:
            self._prompts = list(range(rows))
            self._memory = self._allocate(k, rows, end)
        elif end > self._memory.shape[3]:
            grown = self._allocate(k, rows, end)
            grown[:, :, :, : self.length] = self._memory[:, :, :rows, : self.length]
            self._memory = grown
        held = self._memory[layer, :, :rows]
        held[0, :, self.length : end] = k
        held[1, :, self.length : end] = v
        return held[0, :, :end], held[1, :, :end]

    def advance(self, num_tokens: int) -> None:
        self.length += num_tokens

    def end_prompt(self) -> None:
        """Everything held so far is the prompts'."""
        self._prompt_length = self.length

    def reorder(self, parents: list[int]) -> None:
        """Row i becomes what row `parents[i]` was; there may be more rows than before, or fewer."""
        memory = self._memory
        prompts = [self._prompts[parent] for parent in parents]
        if memory is not None and len(parents) > memory.shape[2]:
            index = torch.tensor(parents, device=memory.device)
            self._memory = self._allocate(memory[0, 0], len(parents), memory.shape[3])
            self._memory[:, :, :, : self.length] = memory[:, :, :, : self.length].index_select(2, index)
        elif memory is not None:
            self._move(memory, parents, prompts)
        self._prompts = prompts

    def _move(self, memory: Tensor, parents: list[int], prompts: list[int]) -> None:
        moved = [row for row, parent in enumerate(parents) if row != parent]
        if not moved:
            return
        same_prompt = len(parents) <= len(self._prompts) and all(prompts[row] == self._prompts[row] for row in moved)
        start = self._prompt_length if same_prompt else 0
        held = memory[:, :, :, start : self.length]
        rows = torch.tensor([moved, [parents[row] for row in moved]], device=memory.device)
        held.index_copy_(2, rows[0], held.index_select(2, rows[1]))

    def _allocate(self, like: Tensor, rows: int, positions: int) -> Tensor:
        capacity = positions + max(_SPARE_POSITIONS, positions // 2)
        return like.new_empty(self.num_layers, 2, rows, capacity, *like.shape[2:])
