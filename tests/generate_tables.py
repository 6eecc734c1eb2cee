"""A language model without a network, and recorded runs over it, for the tests of the searches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


class TableSession:
    """Row r's logits are first[r] [V] after the prompt and table[r, last token] [V] afterwards."""

    def __init__(self, first: Tensor, table: Tensor) -> None:
        self.first = first
        self.table = table
        self.rows = torch.arange(len(first))
        self.steps: list[int] = []  # rows of each step

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


class Tables:
    """Runs of the authors' stack (generate() of transformers 4.28.1) and the tables they were recorded over."""

    def __init__(self, tensors: dict[str, Tensor], runs: list[dict[str, Any]]) -> None:
        self.tensors = tensors
        self.runs = runs

    @classmethod
    def from_fixture(cls, folder: Path) -> Tables:
        return cls(load_file(folder / "tables.safetensors"), json.loads((folder / "runs.json").read_text()))

    @classmethod
    def from_json(cls, path: Path) -> Tables:
        """Logits are in 64ths there."""
        recorded = json.loads(path.read_text())
        tensors = {
            f"seed{seed}.{name}": torch.tensor(values) / 64
            for seed, table in recorded["tables"].items()
            for name, values in table.items()
        }
        return cls(tensors, recorded["runs"])

    def session(self, run: dict[str, Any], rows: slice = slice(None)) -> TableSession:
        seed = run["seed"]
        return TableSession(self.tensors[f"seed{seed}.first"][rows], self.tensors[f"seed{seed}.table"][rows])
