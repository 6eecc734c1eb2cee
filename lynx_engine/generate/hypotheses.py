"""Answers, finished or being compared, and the output of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class NewTokens(NamedTuple):
    """Tokens that have become part of answer `answer` (a row of `GenerationOutput`); never EOS, BOS or padding."""

    answer: int
    token_ids: list[int]


@dataclass(frozen=True)
class Answer:
    """One answer: its tokens without BOS and EOS, and why it ended: "eos", "stop" or "length".

    score: log-probability / length ** length_penalty of a beam. beams: of each token the beam (row * num_beams + k)
    that it continued, with one more for EOS.
    """

    token_ids: tuple[int, ...]
    finish_reason: str
    score: float | None = None
    beams: tuple[int, ...] = ()


@dataclass(frozen=True)
class GenerationOutput:
    """Answers of a batch: `num_return_sequences` a row, best first, rows in order."""

    answers: tuple[Answer, ...]
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int

    @property
    def token_ids(self) -> list[list[int]]:
        """Generated ids of each answer, without BOS, EOS and padding."""
        return [list(answer.token_ids) for answer in self.answers]

    @property
    def sequences(self) -> Tensor:
        """int64 [answers, width]: BOS, tokens, EOS where the model chose it, then padding."""
        rows = [
            [self.bos_token_id, *answer.token_ids, *[self.eos_token_id] * (answer.finish_reason == "eos")]
            for answer in self.answers
        ]
        return _padded(rows, self._width, self.pad_token_id)

    @property
    def beam_indices(self) -> Tensor | None:
        """int64 [answers, width] as `Answer.beams`, padded with -1; None without beams."""
        if not any(answer.beams for answer in self.answers):
            return None
        return _padded([list(answer.beams) for answer in self.answers], self._width, -1)

    @property
    def sequences_scores(self) -> Tensor | None:
        """float32 [answers]; None without beams."""
        scores = [answer.score for answer in self.answers if answer.score is not None]
        return torch.tensor(scores) if scores else None

    @property
    def _width(self) -> int:
        return max((1 + len(a.token_ids) + (a.finish_reason == "eos") for a in self.answers), default=1)


def _padded(rows: list[list[int]], width: int, value: int) -> Tensor:
    return torch.tensor([row + [value] * (width - len(row)) for row in rows], dtype=torch.int64).view(len(rows), width)


class Hypotheses:
    """The `size` best finished answers of one row (REFERENCE.md sections 7.6, 7.7 and 7.9)."""

    def __init__(self, size: int, length_penalty: float) -> None:
        self.size = size
        self.length_penalty = length_penalty
        self._answers: list[tuple[float, Answer]] = []

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, token_ids: list[int], finish_reason: str, log_prob: float, beams: list[int]) -> None:
        """Keep this answer if it is among the best. Its length counts the leading BOS and not EOS."""
        score: float = log_prob / (1 + len(token_ids)) ** self.length_penalty
        if len(self._answers) == self.size:
            worst = min(range(self.size), key=lambda i: self._answers[i][0])
            if score <= self._answers[worst][0]:
                return
            del self._answers[worst]
        self._answers.append((score, Answer(tuple(token_ids), finish_reason, score, tuple(beams))))

    def is_done(self, best_log_prob: float, length: int) -> bool:
        """Whether no running beam, at this log-probability and length, can beat the worst answer kept."""
        if len(self._answers) < self.size:
            return False
        attainable: float = best_log_prob / length**self.length_penalty
        return min(score for score, _ in self._answers) >= attainable

    def best(self, count: int) -> list[Answer]:
        """The `count` best, best first; of equal scores the later one first. Short of answers, the last repeats."""
        ranked = [answer for _, answer in sorted(self._answers, key=lambda pair: pair[0])][::-1]
        return (ranked + ranked[-1:] * count)[:count]
