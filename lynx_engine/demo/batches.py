"""Training batches as functions of their number: scenes are drawn anew for every step, so no data set is stored."""

from __future__ import annotations

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
from .questions import Round, ask_about, caption
from .scene import LANGUAGE, PICTURES, Clip, Scene, World, sample_clip, sample_scene

ROUNDS = 6


@dataclass(frozen=True)
class Pictured:
    """Chats about pictures: pixels uint8 [B, S, S, 3], or [B, F, S, S, 3] of clips."""

    pixels: Tensor
    rows: Rows


def text_batch(tokenizer: Tokenizer, step: int, size: int) -> Rows:
    """Chats about described scenes, one in three about a described clip."""

    def row(rng: Random) -> tuple[list[int], list[int]]:
        if rng.random() < 1 / 3:
            clip = sample_clip(rng, LANGUAGE)
            return encode_rounds(tokenizer, clip_rounds(clip, rng), describe_clip(clip))
        scene = sample_scene(rng, LANGUAGE)
        return encode_rounds(tokenizer, picture_rounds(scene, rng), describe_scene(scene))

    return stack_rows([row(Random(f"text {step} {i}")) for i in range(size)], tokenizer.pad_token_id)


def picture_batch(tokenizer: Tokenizer, step: int, size: int, side: int, world: World = PICTURES) -> Pictured:
    """Chats about pictures of `side` pixels."""
    pixels, rows = [], []
    for i in range(size):
        rng = Random(f"picture {step} {i}")
        scene = sample_scene(rng, world)
        rows.append(encode_rounds(tokenizer, picture_rounds(scene, rng)))
        pixels.append(resize_crop(draw_scene(scene, rng), side))
    return Pictured(torch.stack(pixels), stack_rows(rows, tokenizer.pad_token_id))


def clip_batch(tokenizer: Tokenizer, step: int, size: int, side: int) -> Pictured:
    """Chats about clips."""
    pixels, rows = [], []
    for i in range(size):
        rng = Random(f"clip {step} {i}")
        clip = sample_clip(rng)
        rows.append(encode_rounds(tokenizer, clip_rounds(clip, rng)))
        frames = draw_frames(clip.frames(), rng)
        pixels.append(torch.stack([resize_crop(frame, side) for frame in frames]))
    return Pictured(torch.stack(pixels), stack_rows(rows, tokenizer.pad_token_id))


def picture_rounds(scene: Scene, rng: Random) -> list[Round]:
    """Questions about a scene, its caption among them in every second chat, in random order."""
    return _mixed(ask_about(scene, rng, ROUNDS), lambda: caption(scene, rng), rng)


def clip_rounds(clip: Clip, rng: Random) -> list[Round]:
    return _mixed(ask_about_clip(clip, rng, ROUNDS), lambda: clip_caption(clip, rng), rng)


def _mixed(rounds: list[Round], describe: Callable[[], Round], rng: Random) -> list[Round]:
    if rng.random() < 0.5:
        rounds.insert(rng.randint(0, len(rounds)), describe())
    return rounds
