"""How often the model answers unseen generated questions exactly, kind by kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch

from ..generate import GenerationConfig
from ..lynx import Lynx
from ..media import Vision
from .clip_questions import ask_about_clip
from .draw import draw_frames, draw_scene
from .questions import Round, ask_about
from .scene import sample_clip, sample_scene

_BATCH = 25
_ANSWER = GenerationConfig(max_new_tokens=24)


@dataclass(frozen=True)
class Accuracy:
    """Exact answers of one kind of question."""

    right: int
    asked: int

    def __str__(self) -> str:
        return f"{self.right}/{self.asked} = {100 * self.right / self.asked:.1f} %"


@dataclass(frozen=True)
class Scores:
    """Accuracies of picture and clip questions, together and by kind; `wrong` shows what was answered instead."""

    images: Accuracy
    clips: Accuracy
    kinds: dict[str, Accuracy]
    wrong: list[tuple[Round, str]]

    def __str__(self) -> str:
        lines = [f"picture questions  {self.images}", f"clip questions     {self.clips}", ""]
        return "\n".join([*lines, *(f"  {kind:<24} {accuracy}" for kind, accuracy in sorted(self.kinds.items()))])


def evaluate(lynx: Lynx, *, images: int = 500, clips: int = 200) -> Scores:
    """Ask about pictures and clips that no training run draws, one question each."""
    pictured = [_picture(number) for number in range(images)]
    filmed = [_clip(number) for number in range(clips)]
    answered = [*_answer(lynx, pictured), *_answer(lynx, filmed)]
    kinds = sorted({asked.kind for asked, _ in answered})
    return Scores(
        _accuracy(answered[:images]),
        _accuracy(answered[images:]),
        {kind: _accuracy([pair for pair in answered if pair[0].kind == kind]) for kind in kinds},
        [(asked, answer) for asked, answer in answered if answer != asked.answer],
    )


def _picture(number: int) -> tuple[Vision, Round]:
    rng = Random(f"unseen picture {number}")
    scene = sample_scene(rng)
    asked = ask_about(scene, rng, 1)[0]
    return draw_scene(scene, rng), asked


def _clip(number: int) -> tuple[Vision, Round]:
    rng = Random(f"unseen clip {number}")
    clip = sample_clip(rng)
    asked = ask_about_clip(clip, rng, 1)[0]
    return draw_frames(clip.frames(), rng), asked


def _answer(lynx: Lynx, asked: Sequence[tuple[Vision, Round]]) -> list[tuple[Round, str]]:
    answered = []
    for start in range(0, len(asked), _BATCH):
        batch = asked[start : start + _BATCH]
        with torch.inference_mode():
            vision = lynx.encode_rows([vision for vision, _ in batch])
        prompts = [lynx.prompt(question.question) for _, question in batch]
        texts = lynx.generate(vision=vision, prompts=prompts, config=_ANSWER).texts
        answered += [(question, text) for (_, question), text in zip(batch, texts, strict=True)]
    return answered


def _accuracy(answered: Sequence[tuple[Round, str]]) -> Accuracy:
    return Accuracy(sum(answer == asked.answer for asked, answer in answered), max(len(answered), 1))
