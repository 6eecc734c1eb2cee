"""What the searches promise beyond the recorded runs: draws, streaming, stop strings, limits and broken logits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from generate_tables import TableSession
from torch import Tensor

from lynx_engine import LynxError
from lynx_engine.generate import (
    GenerationConfig,
    GenerationOutput,
    NewTokens,
    cut_at_stop,
    held_back,
    search,
    stream,
)
from lynx_engine.generate.draws import BatchDraws

IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
EOS = 2
SAMPLING: list[dict[str, Any]] = [
    {"do_sample": True, "top_p": 0.9},
    {"do_sample": True, "num_beams": 3, "top_k": 4},
    {"do_sample": True, "num_return_sequences": 3},
    {"do_sample": True, "num_beams": 2, "num_return_sequences": 2},
]


def random_tables(rows: int, vocab_size: int = 12, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(rows, vocab_size, generator=generator) * scale
    return first, torch.randn(rows, vocab_size, vocab_size, generator=generator) * scale


def chain_session(*rows: list[int], vocab_size: int = 12) -> TableSession:
    """A model that says exactly these tokens, each with probability near 1 (a token leads to one other)."""
    first = torch.zeros(len(rows), vocab_size)
    table = torch.zeros(len(rows), vocab_size, vocab_size)
    for row, tokens in enumerate(rows):
        first[row, tokens[0]] = 20
        for last, token in pairwise(tokens):
            table[row, last, token] = 20
    return TableSession(first, table)


def run(session: TableSession, **settings: Any) -> GenerationOutput:
    return search(session, GenerationConfig(**settings), **IDS)


@pytest.mark.parametrize("settings", SAMPLING)
def test_a_sampled_row_does_not_change_with_its_batch(settings: dict[str, Any]) -> None:
    first, table = random_tables(5)
    copies = settings.get("num_return_sequences", 1)
    settings = {**settings, "seed": 11, "max_new_tokens": 12}
    together = run(TableSession(first, table), **settings).answers
    assert len({answer.token_ids for answer in together}) >= 5
    for row in range(5):
        alone = run(TableSession(first[row : row + 1], table[row : row + 1]), **settings)
        answers = together[row * copies : (row + 1) * copies]
        assert alone.token_ids == [list(answer.token_ids) for answer in answers]
        assert [answer.score for answer in alone.answers] == [answer.score for answer in answers]


@pytest.mark.parametrize("settings", SAMPLING)
def test_seed_decides(settings: dict[str, Any]) -> None:
    def answers(seed: int | None) -> list[list[int]]:
        return run(TableSession(*random_tables(3)), **settings, seed=seed, max_new_tokens=12).token_ids

    assert answers(5) == answers(5)
    assert answers(5) != answers(6)
    torch.manual_seed(0)
    unseeded = answers(None)
    assert unseeded != answers(None)
    torch.manual_seed(0)
    assert unseeded == answers(None)


def test_seed_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(())
    torch.manual_seed(3)
    for release_compat in (False, True):
        run(TableSession(*random_tables(2)), do_sample=True, seed=1, release_compat=release_compat)
    assert torch.equal(torch.rand(()), wanted)


def test_compat_draws_are_one_multinomial_over_the_whole_batch() -> None:
    probs = torch.rand(4, 9, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(21)
    wanted = [torch.multinomial(probs, 3) for _ in range(3)]
    draw = BatchDraws(21, num_rows=4)
    assert torch.equal(draw(probs, 3, [0, 1, 2, 3]), wanted[0])
    assert torch.equal(draw(probs[[1, 3]], 3, [1, 3]), wanted[1][[1, 3]])
    assert torch.equal(draw(probs[[3]], 3, [3]), wanted[2][[3]])


def test_default_and_compat_draw_alike_for_a_single_answer() -> None:
    first, table = random_tables(1)
    for settings in SAMPLING[:2]:
        answers = [
            run(TableSession(first, table), **settings, seed=4, release_compat=compat) for compat in (False, True)
        ]
        assert answers[0] == answers[1]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_stream_yields_the_answers_in_order(num_beams: int) -> None:
    first, table = random_tables(4, scale=3.0)
    config = GenerationConfig(num_beams=num_beams, max_new_tokens=9)
    steps = stream(TableSession(first, table), config, **IDS)
    collected: list[list[int]] = [[] for _ in range(4)]
    pieces: list[NewTokens] = []
    while True:
        try:
            pieces.append(next(steps))
        except StopIteration as end:
            output = end.value
            break
        collected[pieces[-1].answer] += pieces[-1].token_ids
    assert collected == output.token_ids == search(TableSession(first, table), config, **IDS).token_ids
    if num_beams == 1:
        assert [len(piece.token_ids) for piece in pieces] == [1] * len(pieces)


def test_first_token_streams_before_the_second_step() -> None:
    session = chain_session([5, 6, 7, EOS])
    steps = stream(session, GenerationConfig(), **IDS)
    assert next(steps) == NewTokens(0, [5])
    assert session.steps == []
    steps.close()


@pytest.mark.parametrize("num_beams", [1, 2])
def test_limits(num_beams: int) -> None:
    one = run(chain_session([5, 6, EOS], [EOS]), num_beams=num_beams, max_new_tokens=1)
    assert one.token_ids == [[5], []]
    assert [answer.finish_reason for answer in one.answers] == ["length", "eos"]
    assert one.sequences.tolist() == [[1, 5], [1, 2]]
    exact = run(chain_session([5, 6, EOS], [EOS]), num_beams=num_beams, max_new_tokens=3)
    assert exact.sequences.tolist() == [[1, 5, 6, 2], [1, 2, 0, 0]]
    never = run(chain_session([5, 6, EOS]), num_beams=num_beams, max_new_tokens=6, min_length=50)
    assert len(never.token_ids[0]) == 6
    assert EOS not in never.token_ids[0]
    assert never.answers[0].finish_reason == "length"


def test_more_beams_than_tokens() -> None:
    output = run(TableSession(*random_tables(2, vocab_size=3)), num_beams=9, num_return_sequences=9, max_new_tokens=4)
    assert len(set(output.answers[:9])) == 9
    scores = output.sequences_scores
    assert scores is not None
    assert torch.equal(scores.view(2, 9), scores.view(2, 9).sort(descending=True).values)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, *SAMPLING])
def test_empty_batch(settings: dict[str, Any]) -> None:
    output = run(TableSession(torch.zeros(0, 5), torch.zeros(0, 5, 5)), **settings)
    assert output.answers == ()
    assert output.sequences.shape == (0, 1)
    assert output.sequences_scores is None


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, *SAMPLING])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_no_token_can_be_chosen_from(settings: dict[str, Any], value: float) -> None:
    first, table = random_tables(2)
    table[1] = value
    table[:, :, EOS] = float("-inf")
    first[:, EOS] = float("-inf")
    with pytest.raises(LynxError, match="cannot choose token 2 of answer"):
        run(TableSession(first, table), **settings)


def test_nothing_left_to_sample_from() -> None:
    with pytest.raises(LynxError, match="min_length and no_repeat_ngram_size together forbid every token"):
        run(TableSession(*random_tables(1, 4)), do_sample=True, no_repeat_ngram_size=1, min_length=9)


def test_half_precision_is_searched_in_float32_by_default() -> None:
    first, table = random_tables(2)
    logits = first.bfloat16(), table.bfloat16()
    upcast = run(TableSession(logits[0].float(), logits[1].float()), num_beams=3, max_new_tokens=6)
    assert run(TableSession(*logits), num_beams=3, max_new_tokens=6) == upcast
    released = run(TableSession(*logits), num_beams=3, max_new_tokens=6, release_compat=True)
    assert released.sequences_scores is not None
    assert not torch.equal(released.sequences_scores, upcast.sequences_scores)


# tokens 3.. are these bytes; "é" and "日" are split over tokens
PIECES = {3: b"a", 4: b"b", 5: b"\n", 6: b"User", 7: b":", 8: b"\xc3", 9: b"\xa9", 10: b"x\ny", 11: b"\xe6\x97"}


def decode(token_ids: list[int]) -> str:
    return b"".join(PIECES.get(token, b"") for token in token_ids).decode(errors="replace")


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize(
    ("says", "stop", "taken", "text"),
    [
        ([3, 5, 6, 7, EOS], ("\nUser:",), [3, 5, 6, 7], "a"),
        ([3, 8, 9, 4, EOS], ("é",), [3, 8, 9], "a"),
        ([3, 10, 4, EOS], ("\n",), [3, 10], "ax"),
        ([6, 3, EOS], ("ser", "User"), [6], ""),
        ([3, 4, EOS], ("User",), [3, 4], "ab"),
    ],
)
def test_stop_strings(num_beams: int, says: list[int], stop: tuple[str, ...], taken: list[int], text: str) -> None:
    session = chain_session(says, [4, 3, EOS])
    config = GenerationConfig(num_beams=num_beams, stop=stop, max_new_tokens=8)
    output = search(session, config, **IDS, decode=decode)
    assert output.token_ids == [taken, [4, 3]]
    reason = "eos" if decode(taken) == text else "stop"
    assert [answer.finish_reason for answer in output.answers] == [reason, "eos"]
    assert cut_at_stop(decode(taken), stop) == text


def test_stop_string_that_every_beam_reaches() -> None:
    first = torch.full((1, 5), -3.0)
    first[0, 3:] = torch.tensor([1.0, 0.0])
    pieces = {0: "", 1: "", 2: "", 3: "stop", 4: "stop it"}
    config = GenerationConfig(num_beams=4, num_return_sequences=3, stop=("stop",), max_new_tokens=5)
    output = search(
        TableSession(first, first.expand(5, 5)[None]),
        config,
        **IDS,
        decode=lambda ids: "".join(pieces[token] for token in ids),
    )
    assert output.token_ids[:2] == [[3], [4]]
    assert {answer.finish_reason for answer in output.answers[:2]} == {"stop"}


def test_stop_strings_need_decode() -> None:
    with pytest.raises(LynxError, match="need decode="):
        run(chain_session([3]), stop=("a",))


def test_text_that_may_begin_a_stop_string_is_held_back() -> None:
    assert held_back("yes\nUs", ("\nUser:", "###")) == 3
    assert held_back("a#", ("\nUser:", "###")) == 1
    assert held_back("a##", ("\nUser:", "###")) == 2
    assert held_back("done", ("\nUser:",)) == 0
    assert held_back("", ("x",)) == 0
    assert held_back("x", ()) == 0
    assert cut_at_stop("a###\nUser:", ("\nUser:", "###")) == "a"
