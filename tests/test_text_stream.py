"""Pieces of a stream join to decode(all ids) and never end inside a character."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lynx_engine.text import SpecialTokens, TextStream, Tokenizer

MODEL = Path(__file__).parent / "data" / "tok300.model"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(MODEL)


def test_characters_arrive_whole(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    pieces = [stream.push(i) for i in tokenizer.encode("é the 日本 😀!")]
    assert [piece for piece in pieces if piece] == ["é", " the", " ", "日", "本", " ", "😀", "!"]
    assert stream.finish() == "" and stream.text == "é the 日本 😀!"


def test_unfinished_character_comes_at_the_end(tokenizer: Tokenizer) -> None:
    lead, middle = 3 + 0xE6, 3 + 0x97
    stream = TextStream(tokenizer)
    assert [stream.push(i) for i in (261, lead, middle)] == ["the", "", ""]
    assert stream.finish() == "\ufffd\ufffd"
    stream = TextStream(tokenizer)
    assert [stream.push(i) for i in (lead, middle, 261)] == ["", "", "\ufffd\ufffd the"]


def test_special_token_inside_a_character_does_not_break_it(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    assert [stream.push(i) for i in (3 + 0xC3, 2, 300, 3 + 0xA9)] == ["", "", "", "é"]


@pytest.mark.parametrize("seed", range(40))
def test_pieces_join_to_the_whole(tokenizer: Tokenizer, seed: int) -> None:
    draw = random.Random(seed)
    leads = [3 + value for value in (0xC2, 0xC3, 0xE0, 0xE2, 0xED, 0xF0, 0xF4, 0xF8, 0xFF)]
    pools = [range(301), range(3 + 0x80, 3 + 0xC0), leads, range(259, 300), (266, 261, 0, 1, 2, 300)]
    ids = [draw.choice(draw.choice(pools)) for _ in range(draw.randrange(60))]
    stream = TextStream(tokenizer)
    batch = draw.randrange(1, 4)
    texts = [stream.push(ids[i : i + batch]) for i in range(0, len(ids), batch)] + [stream.finish()]
    assert "".join(texts) == tokenizer.decode(ids)
    assert stream.text == tokenizer.decode(ids)


@pytest.mark.parametrize("seed", range(10))
def test_valid_text_streams_without_replacement_characters(tokenizer: Tokenizer, seed: int) -> None:
    draw = random.Random(seed)
    text = "".join(draw.choice("ab é日😀\u200dß\n ") for _ in range(50))
    stream = TextStream(tokenizer)
    pieces = [stream.push(i) for i in tokenizer.encode(text)] + [stream.finish()]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == tokenizer.decode(tokenizer.encode(text))


def test_tokenizer_that_cleans_up_spaces_waits_for_the_end() -> None:
    special = SpecialTokens(SpecialTokens.default().roles, clean_up_spaces=True)
    tokenizer = Tokenizer(MODEL, special=special)
    ids = tokenizer.encode("do n't , please .")
    stream = TextStream(tokenizer)
    assert "".join(stream.push(i) for i in ids) == ""
    assert stream.finish() == tokenizer.decode(ids) == "don't, please."
