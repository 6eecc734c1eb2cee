"""Logits rules: recorded values of the authors' stack, and rules read one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lynx_engine import LynxError
from lynx_engine.generate import GenerationConfig
from lynx_engine.generate.logits import (
    NEVER,
    ban_repeated_ngrams,
    check_logits,
    keep_top_k,
    keep_top_p,
    penalize_repeats,
    process,
    warp,
)

EOS = 2


def test_recorded_pipelines(fixtures_dir: Path) -> None:
    folder = fixtures_dir / "processors"
    tensors = load_file(folder / "t.safetensors")
    for run in json.loads((folder / "pipelines.json").read_text()):
        tag = run["tag"]
        config = GenerationConfig(num_beams=run["num_beams"], **run["args"])
        history = tensors["input_ids"][:, : run["n_input_ids"]]
        scores = tensors["logits"].log_softmax(-1) if run["log_softmax_first"] else tensors["logits"]
        scores = process(scores, history, config, EOS)
        torch.testing.assert_close(scores, tensors[f"{tag}.processed"], rtol=1e-6, atol=1e-6, msg=tag)
        if run["beam_scores"] is not None:
            scores = scores + torch.tensor(run["beam_scores"])[:, None]
        if not config.do_sample:
            continue
        scores = warp(scores, config)
        for warper in run["warpers"][-1:]:
            assert_close_but_for_ties(scores, tensors[f"{tag}.after_{warper}"], tag)
        probs = scores.view(-1, config.num_beams * scores.shape[1]).softmax(-1)
        assert_close_but_for_ties(probs, tensors[f"{tag}.probs"], tag)


def assert_close_but_for_ties(scores: Tensor, wanted: Tensor, tag: str) -> None:
    """Which of equally good tokens top-p drops is up to the machine's sort; how many and how good is not."""
    torch.testing.assert_close(scores.sort().values, wanted.sort().values, rtol=1e-5, atol=1e-6, msg=tag)
    moved = ~torch.isclose(scores, wanted, rtol=1e-5, atol=1e-6)
    for row in moved.any(1).nonzero().flatten().tolist():
        best = wanted[row].max()
        tied = (wanted[row] == best) | (scores[row] == best)
        assert bool(tied[moved[row]].all()), tag


def test_rules_leave_their_arguments_alone() -> None:
    scores = torch.randn(2, 9)
    before = scores.clone()
    config = GenerationConfig(
        do_sample=True,
        temperature=0.5,
        top_k=3,
        top_p=0.5,
        repetition_penalty=2.0,
        no_repeat_ngram_size=1,
        min_length=9,
    )
    warp(process(scores, torch.tensor([[1, 3], [1, 4]]), config, EOS), config)
    assert torch.equal(scores, before)


def test_repetition_penalty_counts_a_token_once() -> None:
    scores = torch.tensor([[2.0, -2.0, 0.0, 1.0]])
    history = torch.tensor([[0, 1, 0, 1, 1, 2]])
    assert penalize_repeats(scores, history, 2.0).tolist() == [[1.0, -4.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("size", "history", "banned"),
    [
        (1, [5, 6, 5], {5, 6}),
        (2, [5, 6, 5], {6}),
        (2, [5, 6, 5, 7, 5], {6, 7}),
        (2, [5, 5, 5], {5}),
        (3, [5, 6, 7, 5, 6], {7}),
        (3, [5, 6, 7, 6, 5], set()),
        (4, [5, 6, 7], set()),
        (2, [5], set()),
    ],
)
def test_ngram_bans(size: int, history: list[int], banned: set[int]) -> None:
    scores = ban_repeated_ngrams(torch.zeros(2, 8), torch.tensor([history, [1] * len(history)]), size)
    assert set(torch.nonzero(scores[0] == NEVER).flatten().tolist()) == banned


def test_min_length_counts_the_leading_bos() -> None:
    config = GenerationConfig(min_length=2)
    first = process(torch.zeros(1, 4), torch.tensor([[1]]), config, EOS)
    assert first.tolist() == [[0.0, 0.0, NEVER, 0.0]]
    second = process(torch.zeros(1, 4), torch.tensor([[1, 3]]), config, EOS)
    assert second.tolist() == [[0.0] * 4]


def test_top_k_keeps_ties_with_the_last() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 2.0]])
    assert keep_top_k(scores, 2).tolist() == [[NEVER, 3.0, 2.0, 2.0]]
    assert torch.equal(keep_top_k(scores, 99), scores)


def naive_top_p(row: Tensor, top_p: float, min_keep: int) -> Tensor:
    """The rule read literally, one token at a time from the least likely."""
    order = sorted(range(len(row)), key=lambda token: (float(row[token]), token))
    probs = row.double().softmax(-1)
    kept, total = row.clone(), 0.0
    for token in order[: len(row) - min_keep]:
        total += float(probs[token])
        if total <= 1 - top_p:
            kept[token] = NEVER
    return kept


@pytest.mark.parametrize("top_p", [0.0, 0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("min_keep", [1, 2])
def test_top_p_against_the_rule_read_literally(top_p: float, min_keep: int) -> None:
    generator = torch.Generator().manual_seed(3)
    for vocab_size in (2, 5, 40):
        scores = torch.randn(6, vocab_size, generator=generator) * 3
        scores[1, vocab_size // 2 :] = NEVER
        wanted = torch.stack([naive_top_p(row, top_p, min_keep) for row in scores])
        assert torch.equal(keep_top_p(scores, top_p, min_keep), wanted)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x[1, 3:5].fill_(float("nan")), "token 5 of answer 7: wanted finite logits, got 2 NaN of 6"),
        (lambda x: x[1].fill_(NEVER), "token 5 of answer 7: wanted finite logits, got a best logit of -inf"),
        (lambda x: x[1, 0].fill_(float("inf")), "token 5 of answer 7: wanted finite logits, got a best logit of inf"),
    ],
)
def test_logits_no_token_can_be_chosen_from(spoil: Callable[[Tensor], object], message: str) -> None:
    logits = torch.zeros(2, 6)
    logits[0, 1:] = NEVER
    check_logits(logits, [4, 7], 4)
    spoil(logits)
    with pytest.raises(LynxError, match=message):
        check_logits(logits, [4, 7], 4)
