"""Rules on next-token scores, in the order of the authors' stack (REFERENCE.md sections 7.2 and 7.3).

Shapes: scores [R, V] of R running rows; history int64 [R, L], the ids so far with the leading BOS, without the prompt.
Every rule returns new scores and leaves its arguments alone: a session may hand out views of its own memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import LynxError
from .config import GenerationConfig

NEVER = float("-inf")


def process(scores: Tensor, history: Tensor, config: GenerationConfig, eos_token_id: int) -> Tensor:
    """Repetition penalty, then repeated n-grams, then minimum length. On logits, or on log-probabilities for beams."""
    if config.repetition_penalty != 1.0:
        scores = penalize_repeats(scores, history, config.repetition_penalty)
    if config.no_repeat_ngram_size > 0:
        scores = ban_repeated_ngrams(scores, history, config.no_repeat_ngram_size)
    if history.shape[1] < config.min_length:
        scores = scores.index_fill(1, torch.tensor([eos_token_id], device=scores.device), NEVER)
    return scores


def warp(scores: Tensor, config: GenerationConfig) -> Tensor:
    """Temperature, then top-k, then top-p; beams keep at least two tokens each, so that 2 * num_beams can be drawn."""
    min_keep = 1 if config.num_beams == 1 else 2
    if config.temperature != 1.0:
        scores = scores / config.temperature
    if config.top_k > 0:
        scores = keep_top_k(scores, max(config.top_k, min_keep))
    if config.top_p < 1.0:
        scores = keep_top_p(scores, config.top_p, min_keep)
    return scores


def penalize_repeats(scores: Tensor, history: Tensor, penalty: float) -> Tensor:
    """Scores of tokens in `history`: s / penalty where s >= 0, s * penalty below, once a distinct token."""
    seen = scores.gather(1, history)
    return scores.scatter(1, history, torch.where(seen < 0, seen * penalty, seen / penalty))


def ban_repeated_ngrams(scores: Tensor, history: Tensor, size: int) -> Tensor:
    """-inf for every token that would complete an n-gram of `size` tokens that `history` already holds."""
    length = history.shape[1]
    if length < size:
        return scores
    ngrams = history.unfold(1, size, 1)  # [R, L - size + 1, size]
    suffix = history[:, None, length - size + 1 :]
    rows, starts = (ngrams[:, :, : size - 1] == suffix).all(-1).nonzero(as_tuple=True)
    return scores.index_put((rows, ngrams[rows, starts, size - 1]), scores.new_tensor(NEVER))


def keep_top_k(scores: Tensor, k: int) -> Tensor:
    """-inf below the k-th best score of a row; ties with it stay."""
    kth = scores.topk(min(k, scores.shape[1]), dim=1).values[:, -1:]
    return scores.masked_fill(scores < kth, NEVER)


def keep_top_p(scores: Tensor, top_p: float, min_keep: int = 1) -> Tensor:
    """Keep the smallest set of best tokens with probability above `top_p`: ascending, drop while cumsum <= 1 - top_p.

    Among equal scores torch's unstable sort decides, as it does in the authors' stack.
    """
    ascending, ids = scores.sort(dim=1)
    drop = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
    drop[:, -min_keep:] = False
    return scores.masked_fill(drop.scatter(1, ids, drop), NEVER)


def check_logits(logits: Tensor, answers: list[int], step: int) -> None:
    """Raise where a row has NaN, +inf, or no finite logit at all: no rule can choose a token from it."""
    best = logits.amax(1)
    finite = best.isfinite()
    if not bool(finite.all()):
        row = int(finite.logical_not().nonzero()[0])
        num_nan = int(logits[row].isnan().sum())
        got = f"{num_nan} NaN of {logits.shape[1]}" if num_nan else f"a best logit of {float(best[row])}"
        raise LynxError(f"cannot choose token {step + 1} of answer {answers[row]}: wanted finite logits, got {got}")
