"""Random draws of sampling, replaceable so that a recorded run can be replayed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import LynxError
from .config import GenerationConfig

# (probabilities [R, N], draws a row n, row numbers in the whole batch [R]) -> ids [R, n], distinct within a row
Draw = Callable[[Tensor, int, list[int]], Tensor]

_GOLDEN = 0x9E3779B97F4A7C15


def make_draw(config: GenerationConfig, num_prompts: int) -> Draw:
    if config.release_compat:
        return BatchDraws(config.seed, num_prompts * config.num_return_sequences)
    return RowDraws(config.seed, config.num_return_sequences)


class RowDraws:
    """A generator for each answer, seeded by the seed and its number among its prompt's answers.

    So an answer does not change with the other rows of the batch, and answer 0 of a batch of one equals
    `torch.manual_seed(seed)` with one generator for everything.
    """

    def __init__(self, seed: int | None, answers_per_row: int) -> None:
        self.seed = int(torch.randint(2**62, ())) if seed is None else seed
        self.answers_per_row = answers_per_row
        self._generators: dict[int, torch.Generator] = {}

    def __call__(self, probs: Tensor, num_samples: int, rows: list[int]) -> Tensor:
        _check_probs(probs)
        drawn = [
            torch.multinomial(p, num_samples, generator=self._generator(row, probs.device))
            for p, row in zip(probs, rows, strict=True)
        ]
        return torch.stack(drawn)

    def _generator(self, row: int, device: torch.device) -> torch.Generator:
        if row not in self._generators:
            seed = (self.seed + (row % self.answers_per_row) * _GOLDEN) % 2**63
            self._generators[row] = torch.Generator(device).manual_seed(seed)
        return self._generators[row]


class BatchDraws:
    """One multinomial over the whole batch, finished rows included, as the authors' stack draws.

    The same as `torch.manual_seed(seed)` before their generate(); without a seed, torch's global generator.
    """

    def __init__(self, seed: int | None, num_rows: int) -> None:
        self.seed = seed
        self.num_rows = num_rows
        self._generator: torch.Generator | None = None

    def __call__(self, probs: Tensor, num_samples: int, rows: list[int]) -> Tensor:
        _check_probs(probs)
        if self.seed is not None and self._generator is None:
            self._generator = torch.Generator(probs.device).manual_seed(self.seed)
        if len(rows) < self.num_rows:
            # a row that has finished takes its share of random numbers, whatever its probabilities
            index = torch.tensor(rows, device=probs.device)
            whole = probs.new_ones(self.num_rows, probs.shape[1]).index_copy_(0, index, probs)
            return torch.multinomial(whole, num_samples, generator=self._generator)[index]
        return torch.multinomial(probs, num_samples, generator=self._generator)


def _check_probs(probs: Tensor) -> None:
    # softmax over nothing but -inf is NaN everywhere, so one column tells
    if bool(probs[:, 0].isnan().any()):
        raise LynxError("nothing to sample from: min_length and no_repeat_ngram_size together forbid every token")
