"""Training batches as functions of their number: scenes are drawn anew for every step, so no data set is stored.

The chats of several batches are drawn together and dealt out by length: mixed at random, a third of every batch would
be padding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from ..media import resize_crop
from ..text import Tokenizer
from .clip_questions import ask_about_clip, clip_caption
from .describe import describe_clip, describe_scene
from .dialogue import Rows, encode_rounds, stack_rows
from .draw import draw_frames, draw_scene
from .questions import KINDS, NAME_KINDS, Round, caption, practise
from .scene import Clip, Scene, sample_clip, sample_scene

ROUNDS = 8
_CAPTIONS = 0.1
_TOGETHER = 8

Chat = tuple[Tensor | None, list[int], list[int]]  # pixels, ids, labels


@dataclass(frozen=True)
class Pictured:
    """Chats about pictures: pixels uint8 [B, S, S, 3], or [B, F, S, S, 3] of clips."""

    pixels: Tensor
    rows: Rows


def text_batch(
    tokenizer: Tokenizer, step: int, size: int, *, pairs_only: bool = False, names_only: bool = False
) -> Rows:
    """Chats about described scenes and, one in four, described clips.

    `pairs_only`: about scenes of two things. `names_only`: about those, and only what is said of a thing by its name.
    """
    make = _names if names_only else _pair if pairs_only else _text
    return _rows(_dealt(make, tokenizer, step, size), tokenizer)


def picture_batch(tokenizer: Tokenizer, step: int, size: int, side: int) -> Pictured:
    """Chats about pictures of `side` pixels."""
    return _pictured(_dealt(_picture_of(side), tokenizer, step, size), tokenizer)


def clip_batch(tokenizer: Tokenizer, step: int, size: int, side: int) -> Pictured:
    """Chats about clips."""
    return _pictured(_dealt(_clip_of(side), tokenizer, step, size), tokenizer)


def picture_rounds(scene: Scene, rng: Random) -> list[Round]:
    """Questions about a scene, or its caption alone: among questions it would give their answers away."""
    return [caption(scene, rng)] if rng.random() < _CAPTIONS else practise(scene, rng, ROUNDS, KINDS)


def clip_rounds(clip: Clip, rng: Random) -> list[Round]:
    return [clip_caption(clip, rng)] if rng.random() < _CAPTIONS else ask_about_clip(clip, rng, ROUNDS)


def _text(tokenizer: Tokenizer, rng: Random) -> Chat:
    if rng.random() < 0.25:
        clip = sample_clip(rng)
        return None, *encode_rounds(tokenizer, clip_rounds(clip, rng), describe_clip(clip))
    scene = sample_scene(rng)
    return None, *encode_rounds(tokenizer, picture_rounds(scene, rng), describe_scene(scene))


def _pair(tokenizer: Tokenizer, rng: Random) -> Chat:
    scene = _scene_of_two(rng)
    return None, *encode_rounds(tokenizer, picture_rounds(scene, rng), describe_scene(scene))


def _names(tokenizer: Tokenizer, rng: Random) -> Chat:
    scene = _scene_of_two(rng)
    return None, *encode_rounds(tokenizer, practise(scene, rng, ROUNDS, NAME_KINDS), describe_scene(scene))


def _scene_of_two(rng: Random) -> Scene:
    while True:
        scene = sample_scene(rng)
        if len(scene.things) == 2 and scene.word is None:
            return scene


@functools.cache
def _picture_of(side: int) -> Callable[[Tokenizer, Random], Chat]:
    def picture(tokenizer: Tokenizer, rng: Random) -> Chat:
        scene = sample_scene(rng)
        ids, labels = encode_rounds(tokenizer, picture_rounds(scene, rng))
        return resize_crop(draw_scene(scene, rng), side), ids, labels

    return picture


@functools.cache
def _clip_of(side: int) -> Callable[[Tokenizer, Random], Chat]:
    def filmed(tokenizer: Tokenizer, rng: Random) -> Chat:
        clip = sample_clip(rng)
        ids, labels = encode_rounds(tokenizer, clip_rounds(clip, rng))
        frames = draw_frames(clip.frames(), rng)
        return torch.stack([resize_crop(frame, side) for frame in frames]), ids, labels

    return filmed


def _dealt(make: Callable[[Tokenizer, Random], Chat], tokenizer: Tokenizer, step: int, size: int) -> list[Chat]:
    return _together(make, tokenizer, step // _TOGETHER, size)[step % _TOGETHER]


@functools.lru_cache(maxsize=4)
def _together(
    make: Callable[[Tokenizer, Random], Chat], tokenizer: Tokenizer, number: int, size: int
) -> list[list[Chat]]:
    """The chats of `_TOGETHER` batches, those of like length in one batch, the batches in random order."""
    name = f"{make.__name__} {number}"
    chats = [make(tokenizer, Random(f"{name} {i}")) for i in range(size * _TOGETHER)]
    chats.sort(key=lambda chat: len(chat[1]))
    batches = [chats[at : at + size] for at in range(0, len(chats), size)]
    Random(name).shuffle(batches)
    return batches


def _rows(chats: list[Chat], tokenizer: Tokenizer) -> Rows:
    return stack_rows([(ids, labels) for _, ids, labels in chats], tokenizer.pad_token_id)


def _pictured(chats: list[Chat], tokenizer: Tokenizer) -> Pictured:
    return Pictured(torch.stack([pixels for pixels, _, _ in chats if pixels is not None]), _rows(chats, tokenizer))
