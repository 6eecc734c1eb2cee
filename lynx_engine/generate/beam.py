"""Beam search and beam sampling (REFERENCE.md sections 7.6 to 7.10)."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import torch
from torch import Tensor

from .hypotheses import Answer, Hypotheses, NewTokens
from .logits import NEVER, check_logits, process, warp
from .session import Session
from .task import Task

# the score of all beams but the first before the first step, so that they do not all choose the same token
_LATER = -1e9


class _Beam(NamedTuple):
    """A beam after one more token: the running beam it continues, and its log-probability so far."""

    parent: int
    token: int
    log_prob: float


class BeamSearch:
    """The running beams of every unfinished row.

    A = unfinished rows, K = num_beams. history int64 [A*K, L]; chain int64 [A*K, L-1], the beams that each token
    continued, numbered row * K + k over the whole batch; log_probs float32 [A*K].
    """

    def __init__(self, task: Task, num_rows: int, device: torch.device) -> None:
        config = task.config
        self.task = task
        self.width = config.num_beams
        self.rows = list(range(num_rows))
        self.kept = [Hypotheses(self.width, config.length_penalty) for _ in self.rows]
        beams = num_rows * self.width
        self.history = torch.full((beams, 1), task.bos_token_id, device=device)
        self.chain = torch.empty((beams, 0), dtype=torch.int64, device=device)
        self.log_probs = torch.zeros(num_rows, self.width, device=device)
        if not config.do_sample:
            self.log_probs[:, 1:] = _LATER
        self.log_probs = self.log_probs.flatten()

    def advance(self, logits: Tensor, step: int) -> tuple[Tensor, list[int]]:
        """One more token for every beam from logits [A*K, V].

        Returns the parents int64 of the beams that go on, and the rows that are done; those leave.
        """
        log_probs, tokens, beams = self._candidates(logits, step)
        length = self.history.shape[1]
        survivors: list[_Beam] = []
        unfinished, done = [], []
        for position, row in enumerate(self.rows):
            chosen = self._select(position, log_probs[position], tokens[position], beams[position])
            # the authors' stack counts the length up once a row within the batch
            length_now = length + 1 + (position if self.task.config.release_compat else 0)
            if not chosen or self.kept[row].is_done(max(log_probs[position]), length_now):
                done.append(row)
            else:
                unfinished.append(row)
                survivors += chosen
        parents = self._continue(survivors)
        self.rows = unfinished
        return parents, done

    def finish(self) -> None:
        """At the length limit the running beams are answers too."""
        log_probs = self.log_probs.tolist()
        for position, row in enumerate(self.rows):
            for beam in range(position * self.width, (position + 1) * self.width):
                if not self._is_filler(row, log_probs[beam]):
                    self._keep(row, beam, [], "length", log_probs[beam], [])

    def _candidates(self, logits: Tensor, step: int) -> tuple[list[list[float]], list[list[int]], list[list[int]]]:
        """Log-probabilities, tokens and beams (0..K-1) of the 2K best (or drawn) continuations of each row."""
        config = self.task.config
        answers = [row for row in self.rows for _ in range(self.width)]
        check_logits(logits, answers, step)
        scores = self.task.upcast(logits).log_softmax(-1)
        scores = process(scores, self.history, config, self.task.eos_token_id)
        if self.task.on_scores is not None:
            self.task.on_scores(scores, [row * self.width + i % self.width for i, row in enumerate(answers)])
        scores = scores + self.log_probs[:, None]
        vocab_size = scores.shape[1]
        if config.do_sample:
            scores = warp(scores, config).reshape(len(self.rows), -1)
            picked = self.task.draw(scores.softmax(-1), 2 * self.width, self.rows)
            best, order = scores.gather(1, picked).sort(dim=1, descending=True, stable=True)
            picked = picked.gather(1, order)
        else:
            best, picked = scores.reshape(len(self.rows), -1).topk(2 * self.width, dim=1)
        return best.tolist(), (picked % vocab_size).tolist(), (picked // vocab_size).tolist()

    def _select(self, position: int, log_probs: list[float], tokens: list[int], beams: list[int]) -> list[_Beam]:
        """Keep the candidates that end an answer, and return the K best that go on (fewer only with stop strings)."""
        row, task = self.rows[position], self.task
        survivors: list[_Beam] = []
        for rank, (log_prob, token, beam) in enumerate(zip(log_probs, tokens, beams, strict=True)):
            if self._is_filler(row, log_prob):
                continue
            parent = position * self.width + beam
            grown = [] if token == task.eos_token_id else [token]
            reason = task.finish_reason(token, [*self._tokens(parent), *grown] if task.stop else [])
            if reason is None:
                survivors.append(_Beam(parent, token, log_prob))
            elif rank < self.width:
                self._keep(row, parent, grown, reason, log_prob, [row * self.width + beam])
            if len(survivors) == self.width:
                break
        if survivors:
            filler = _Beam(survivors[0].parent, task.pad_token_id, NEVER)
            survivors += [filler] * (self.width - len(survivors))
        return survivors

    def _is_filler(self, row: int, log_prob: float) -> bool:
        """Whether a beam only fills up a row in which stop strings ended more than K candidates."""
        return self.task.stop is not None and log_prob == NEVER and len(self.kept[row]) > 0

    def _keep(self, row: int, beam: int, tokens: list[int], reason: str, log_prob: float, chain: list[int]) -> None:
        token_ids = [*self._tokens(beam), *tokens]
        self.kept[row].add(token_ids, reason, log_prob, [*self.chain[beam].tolist(), *chain])

    def _tokens(self, beam: int) -> list[int]:
        tokens: list[int] = self.history[beam, 1:].tolist()
        return tokens

    def _continue(self, survivors: list[_Beam]) -> Tensor:
        device = self.history.device
        parents = torch.tensor([beam.parent for beam in survivors], dtype=torch.int64, device=device)
        tokens = torch.tensor([beam.token for beam in survivors], dtype=torch.int64, device=device)
        numbers = [self.rows[beam.parent // self.width] * self.width + beam.parent % self.width for beam in survivors]
        chain = torch.tensor(numbers, dtype=torch.int64, device=device)
        self.history = torch.cat((self.history[parents], tokens[:, None]), dim=1)
        self.chain = torch.cat((self.chain[parents], chain[:, None]), dim=1)
        self.log_probs = torch.tensor([beam.log_prob for beam in survivors], dtype=torch.float32, device=device)
        return parents


def beam_search(session: Session, task: Task) -> Generator[NewTokens, None, list[Answer]]:
    """Beam search, or beam sampling with `do_sample`; yields a row's answers when they are settled.

    Beam search returns the `num_return_sequences` best beams of a row; beam sampling runs each of them by itself.
    """
    config = task.config
    copies, best = (config.num_return_sequences, 1) if config.do_sample else (1, config.num_return_sequences)
    num_rows = session.batch_size * copies
    logits = session.prefill()
    search = BeamSearch(task, num_rows, logits.device)
    origins = torch.arange(num_rows * config.num_beams, device=logits.device) // (copies * config.num_beams)
    logits = logits[origins]
    answers: list[list[Answer]] = [[] for _ in range(num_rows)]

    for step in range(config.max_new_tokens):
        parents, done = search.advance(logits, step)
        if step + 1 == config.max_new_tokens:
            search.finish()
            done = done + search.rows
        for row in done:
            answers[row] = search.kept[row].best(best)
            for i, answer in enumerate(answers[row]):
                yield NewTokens(row * best + i, list(answer.token_ids))
        if not search.rows or step + 1 == config.max_new_tokens:
            break
        logits = session.step(search.history[:, -1], origins[parents] if step == 0 else parents)
    return [answer for row in answers for answer in row]
