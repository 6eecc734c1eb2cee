"""Prompts and conversations."""

from __future__ import annotations

from pathlib import Path

import pytest

from lynx_engine.errors import LynxError
from lynx_engine.text import PROMPT, Tokenizer, encode_chat, render, render_chat

MODEL = Path(__file__).parent / "data" / "tok300.model"
ROUNDS = [("What is it?", " A mug. "), ("Which colour?", "Red.")]


def test_render() -> None:
    assert render(PROMPT, {"question": " Why? "}) == "user:  why? \nbot:"
    assert render(PROMPT, {"question": "Why?"}, lower_text=False) == "User: Why?\nBot:"
    assert render("\n {question} \n", {"question": "\u00a0Why?\u3000"}) == "why?"
    assert render("{a}/{b}", {"a": 3, "b": 0.5, "c": "unused"}) == "3/0.5"
    assert render(PROMPT, {"question": "ΟΔΟΣ İ {0} {question}"}) == "user: οδος i\u0307 {0} {question}\nbot:"


def test_missing_placeholder_names_both_sides() -> None:
    with pytest.raises(LynxError, match=r"no value for placeholder \{question\}; keys available: text, id"):
        render(PROMPT, {"text": "Why?", "id": 3})
    with pytest.raises(LynxError, match="keys available: none"):
        render(PROMPT, {})


@pytest.mark.parametrize(
    "template", ["{question", "{}", "{0}", "question}", "{question.x}", "{question[a]}", "{question:d}", "{question!z}"]
)
def test_malformed_templates(template: str) -> None:
    with pytest.raises(LynxError, match="prompt"):
        render(template, {"question": "Why?"})


@pytest.mark.parametrize("value", [None, ["Why?"], {"a": 1}, True])
def test_values_that_are_not_text(value: object) -> None:
    with pytest.raises(LynxError, match=r"^question: wanted text, got"):
        render(PROMPT, {"question": value})
    assert render("{question}", {"question": value}, False, release_compat=True) == str(value)


def test_annotation_that_is_not_an_object() -> None:
    with pytest.raises(LynxError, match="wanted an object with the placeholders' values, got list"):
        render(PROMPT, ["Why?"])  # type: ignore[arg-type]


def test_chat() -> None:
    text = "User: What is it?\nBot: A mug.\nUser: Which colour?\nBot: Red.\nUser: Why?\nBot:"
    assert render_chat(ROUNDS, "Why?", lower_text=False) == text
    assert render_chat(ROUNDS, "Why?") == text.lower()
    assert render_chat([], "Why?") == render(PROMPT, {"question": "Why?"})


def test_chat_is_cut_by_whole_rounds() -> None:
    tokenizer = Tokenizer(MODEL)
    whole, last_two, last = (tokenizer.encode(render_chat(ROUNDS[i:], "Why?")) for i in range(3))
    assert encode_chat(tokenizer, ROUNDS, "Why?", max_tokens=0) == whole
    assert encode_chat(tokenizer, ROUNDS, "Why?", max_tokens=len(whole)) == whole
    assert encode_chat(tokenizer, ROUNDS, "Why?", max_tokens=len(whole) - 1) == last_two
    assert encode_chat(tokenizer, ROUNDS, "Why?", max_tokens=len(last_two) - 1) == last
    assert encode_chat(tokenizer, ROUNDS, "Why?", max_tokens=6) == [1, *last[-5:]]
