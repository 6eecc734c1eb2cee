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
        self._layers: list[tuple[Tensor, Tensor]] = []  # views of the memory, keys and values of each
        self._starts = torch.zeros(0, dtype=torch.int64)

    def reserve(self, layer: int, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where to write keys and values of k's shape [B, S, H, D]: the layer's memory of both, starts int64 [B].

        Memory [B, capacity, H, D] holds `length` positions and has room for S more; `advance` makes them count.
        """
        rows, end = k.shape[0], self.length + k.shape[1]
        if self._memory is None:
            self._prompts = list(range(rows))
            self._memory = self._allocate(k, rows, end)
        elif end > self._memory.shape[3]:
            grown = self._allocate(k, rows, end)
            grown[:, :, :, : self.length] = self._memory[:, :, :rows, : self.length]
            self._memory = grown
        if layer == 0:  # the same for all layers of a step
            self._starts = torch.full((rows,), self.length, device=k.device)
            self._layers = [(held[0], held[1]) for held in self._memory[:, :, :rows].unbind()]
        return *self._layers[layer], self._starts

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
