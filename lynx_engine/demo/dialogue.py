"""Rounds of questions and answers as token rows with labels (REFERENCE.md section 10)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

import sentencepiece
import torch
from torch import Tensor

from ..model import IGNORE_INDEX
from ..text import Tokenizer, pad_rows, render
from .clip_questions import ask_about_clip, clip_caption
from .describe import describe_clip, describe_scene
from .questions import Round, ask_about, caption
from .scene import LANGUAGE, WORDS, sample_clip, sample_scene

PROMPT = "User: {question}\nBot:"
VOCAB_SIZE = 639  # 640 with the pad token: products with the output matrix like multiples of 16
_SPEAKERS = ["User:", "Bot:"]
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'-"


@dataclass(frozen=True)
class Rows:
    """A batch: input_ids [B, T] padded on the right; labels [B, T] with -100 where nothing is predicted."""

    input_ids: Tensor
    labels: Tensor


def train_tokenizer() -> bytes:
    """A small sentencepiece model of the generator's language, with LLaMA's settings."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_corpus(4000)),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        byte_fallback=True,
        split_digits=True,
        character_coverage=1.0,
        required_chars=_ALPHABET,
        user_defined_symbols=_SPEAKERS,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _corpus(size: int) -> Iterable[str]:
    """Lines of text; without line ends, which so become the byte token that LLaMA has for them."""
    yield from WORDS
    for number in range(size):
        rng = Random(f"corpus {number}")
        scene, clip = sample_scene(rng, LANGUAGE), sample_clip(rng, LANGUAGE)
        rounds = [
            *ask_about(scene, rng, 4),
            caption(scene, rng),
            *ask_about_clip(clip, rng, 2),
            clip_caption(clip, rng),
        ]
        yield describe_scene(scene)
        yield describe_clip(clip)
        for asked in rounds:
            yield from render(PROMPT, {"question": asked.question}).splitlines()
            yield asked.answer


def encode_rounds(
    tokenizer: Tokenizer, rounds: Sequence[Round], lead: str | None = None
) -> tuple[list[int], list[int]]:
    """(ids, labels) of a chat: `lead` (text before BOS), then `user: ...\\nbot: ...` for each round.

    The ids are those of the whole chat's text. Each answer is to be followed by EOS: the label at the first token of
    the next round, which chat history shows in EOS's place, is EOS too.
    """
    ids = [] if lead is None else tokenizer.encode(lead, add_bos=False)
    labels = [IGNORE_INDEX] * len(ids)
    for number, asked in enumerate(rounds):
        question = render(PROMPT, {"question": asked.question})
        if number == 0:
            prompt, first = tokenizer.encode(question), IGNORE_INDEX
        else:  # the "▁" that sentencepiece puts before every text is not there inside the chat's
            prompt, first = tokenizer.encode("\n" + question, add_bos=False)[1:], tokenizer.eos_token_id
        answer = tokenizer.encode(asked.answer, add_bos=False)
        ids += prompt + answer
        labels += [first, *[IGNORE_INDEX] * (len(prompt) - 1), *answer]
    return [*ids, tokenizer.eos_token_id], [*labels, tokenizer.eos_token_id]


def stack_rows(rows: Sequence[tuple[list[int], list[int]]], pad_token_id: int) -> Rows:
    """Rows padded on the right, where causal attention never sees the pads."""
    input_ids, mask = pad_rows([ids for ids, _ in rows], pad_token_id, "right")
    labels, _ = pad_rows([labels for _, labels in rows], IGNORE_INDEX, "right")
    return Rows(input_ids, torch.where(mask == 1, labels, IGNORE_INDEX))
