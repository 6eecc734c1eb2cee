"""Greedy decoding and sampling: one running row an answer."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .hypotheses import Answer, NewTokens
from .logits import check_logits, process, warp
from .session import Session
from .task import Task


@dataclass
class _Growing:
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None

    def take(self, token: int, task: Task) -> bool:
        """Add a token, or end at EOS; whether the token became part of the answer."""
        if token != task.eos_token_id:
            self.token_ids.append(token)
        self.finish_reason = task.finish_reason(token, self.token_ids)
        return token != task.eos_token_id


def sample(session: Session, task: Task) -> Generator[NewTokens, None, list[Answer]]:
    """Greedy, or sampling with `do_sample`; yields every token as soon as it is chosen.

    Finished rows leave the batch.
    """
    config = task.config
    origins = [row for row in range(session.batch_size) for _ in range(config.num_return_sequences)]
    answers = [_Growing() for _ in origins]
    running = list(range(len(origins)))  # of each row, its answer
    logits = session.prefill()
    parents = torch.tensor(origins, device=logits.device) if config.num_return_sequences > 1 else None
    logits = logits if parents is None else logits[parents]
    history = torch.full((len(origins), 1), task.bos_token_id, device=logits.device)

    for step in range(config.max_new_tokens):
        tokens = _choose(logits, history, running, task, step)
        for answer, token in zip(running, tokens.tolist(), strict=True):
            if answers[answer].take(token, task):
                yield NewTokens(answer, [token])
        going = [row for row, answer in enumerate(running) if answers[answer].finish_reason is None]
        if not going or step + 1 == config.max_new_tokens:
            break
        if len(going) < len(running):
            index = torch.tensor(going, device=tokens.device)
            running = [running[row] for row in going]
            tokens, history = tokens[index], history[index]
            parents = index if parents is None else parents[index]
        history = torch.cat((history, tokens[:, None]), dim=1)
        logits = session.step(tokens, parents)
        parents = None
    return [Answer(tuple(answer.token_ids), answer.finish_reason or "length") for answer in answers]


def _choose(logits: Tensor, history: Tensor, running: list[int], task: Task, step: int) -> Tensor:
    """The next token of every row: int64 [R]."""
    check_logits(logits, running, step)
    scores = process(task.upcast(logits), history, task.config, task.eos_token_id)
    if task.config.do_sample:
        scores = warp(scores, task.config)
    if task.on_scores is not None:
        task.on_scores(scores, running)
    if not task.config.do_sample:
        return scores.argmax(1)
    return task.draw(scores.softmax(-1), 1, running)[:, 0]
