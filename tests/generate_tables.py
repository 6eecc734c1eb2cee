"""A language model without a network, for the tests of the searches."""

from __future__ import annotations

import torch
from torch import Tensor


class TableSession:
    """Row r's logits are first[r] [V] after the prompt and table[r, last token] [V] afterwards."""

    def __init__(self, first: Tensor, table: Tensor) -> None:
        self.first = first
        self.table = table
        self.rows = torch.arange(len(first))
        self.steps: list[int] = []

    @property
    def batch_size(self) -> int:
        return len(self.first)

    def prefill(self) -> Tensor:
        return self.first

    def step(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
        if parents is not None:
            self.rows = self.rows[parents]
        self.steps.append(len(tokens))
        return self.table[self.rows, tokens]


class Replay:
    """Recorded draws [step][row] of the whole batch in place of random ones; keeps the rows and probabilities given."""

    def __init__(self, draws: list[list[list[int]]]) -> None:
        self.draws = draws
        self.given: list[tuple[list[int], Tensor]] = []

    def __call__(self, probs: Tensor, num_samples: int, rows: list[int]) -> Tensor:
        recorded = self.draws[len(self.given)]
        self.given.append((rows, probs))
        drawn = torch.tensor([recorded[row] for row in rows])
        assert drawn.shape[1] == num_samples
        return drawn
