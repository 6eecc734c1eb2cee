"""How the demo model comes to be, from nothing, as data: the paper's order at a small size.

The language model learns to answer from described scenes and the vision encoder learns to name what it sees; then both
are frozen, and bridge, adapters and frame positions are trained in two stages (LYNX.md section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import LynxConfig
from ..model import IGNORE_INDEX, LynxModel, init_parameters
from ..model.decoder import LlamaLayer
from ..text import Tokenizer
from .batches import Pictured, clip_batch, picture_batch, text_batch
from .dialogue import Rows
from .initial import initialise
from .vision_task import VisionTask, labelled_batch, place_patches

BATCH = 16
CLIP_BATCH = 8
VISION_BATCH = 32


@dataclass(frozen=True)
class Phase:
    """One training run: `module` holds what trains; learning rates as in Table 5 (start, peak, linear decay).

    `keep`: the share of the weights from before that stays in the result, which is their mean (arXiv 2109.01903).
    """

    name: str
    steps: int
    peak_lr: float
    module: nn.Module
    batch: Callable[[int], Any]
    loss: Callable[[Any], Tensor]
    betas: tuple[float, float] = (0.9, 0.999)
    keep: float = 0.0

    def blend(self, before: Mapping[str, Tensor]) -> None:
        """The result from the weights after the run, which `module` has, and those `before` it."""
        with torch.no_grad():
            for name, weight in self.trained().items():
                weight.lerp_(before[name], self.keep)

    def trained(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    @property
    def start_lr(self) -> float:
        """A tenth of the peak, as in Table 5."""
        return self.peak_lr / 10


def new_model(seed: int = 0) -> LynxModel:
    """The demo model before training; `seed` also seeds torch, which draws the heads of the vision task."""
    torch.manual_seed(seed)
    model = LynxModel(LynxConfig.preset("demo"))
    init_parameters(model, seed)
    return model


def phases(model: LynxModel, tokenizer: Tokenizer, scale: float = 1.0) -> Iterator[Phase]:
    """The five runs, each to be finished before the next is asked for: what is frozen changes in between.

    `scale` is a fraction of the full recipe's steps.
    """
    side, grid = model.config.vision.image_size, model.config.vision.grid_size

    def steps(full: int) -> int:
        return max(1, round(full * scale))

    def text_loss(rows: Rows) -> Tensor:
        """Answers, and with a fifth of their weight every other token."""
        logits = model(rows.input_ids).logits[:, :-1].flatten(0, 1)
        everything = rows.input_ids.masked_fill(rows.input_ids == tokenizer.pad_token_id, IGNORE_INDEX)
        answers, text = (F.cross_entropy(logits, ids[:, 1:].flatten()) for ids in (rows.labels, everything))
        return answers + 0.2 * text

    def pictured_loss(batch: Pictured) -> Tensor:
        return _loss(model, batch.rows, **{"videos" if batch.pixels.ndim == 5 else "images": batch.pixels})

    def text(step: int) -> Rows:
        return text_batch(tokenizer, step, BATCH, names_only=step < steps(_NAMES), pairs_only=step < steps(_PAIRS))

    def pictures(step: int) -> Pictured:
        return picture_batch(tokenizer, step, BATCH, side)

    def pictures_and_clips(step: int) -> Pictured:
        """Two batches of pictures, then one of clips."""
        clips = step // 3
        if step % 3 == 2:
            return clip_batch(tokenizer, clips, CLIP_BATCH, side)
        return picture_batch(tokenizer, steps(_PRETRAIN) + step - clips, BATCH, side)

    def clips_and_pictures(step: int) -> Pictured:
        """Two batches of clips, then one of pictures, none of them seen before."""
        number = steps(_PRETRAIN) + steps(_FINETUNE) + step
        if step % 3 == 2:
            return picture_batch(tokenizer, number, BATCH, side)
        return clip_batch(tokenizer, number, CLIP_BATCH, side)

    model.freeze(vision=True, llm=False)
    initialise(model.LLM)
    layers = cast("list[LlamaLayer]", list(model.LLM.model.layers))
    adapters = [layer.output_adapter for layer in layers]
    for layer in layers:
        layer.output_adapter = None
    yield Phase("language", steps(_LANGUAGE), 1e-3, model.LLM, text, text_loss, betas=(0.9, 0.95))
    for layer, adapter in zip(layers, adapters, strict=True):
        layer.output_adapter = adapter

    model.freeze(vision=False, llm=True)
    place_patches(model.vision_encoder)
    task = VisionTask(model.vision_encoder)
    yield Phase("vision", steps(_VISION), 1e-3, task, lambda n: labelled_batch(n, VISION_BATCH, side, grid), task.loss)

    model.freeze()
    yield Phase("pretrain", steps(_PRETRAIN), 1e-3, model, pictures, pictured_loss)
    yield Phase("finetune", steps(_FINETUNE), 8e-4, model, pictures_and_clips, pictured_loss)
    yield Phase("clips", steps(_CLIPS), 5e-4, model, clips_and_pictures, pictured_loss, keep=0.15)


_LANGUAGE, _VISION, _PRETRAIN, _FINETUNE, _CLIPS = 4500, 3600, 3200, 4200, 1000
# Of the language model's steps, the first ask only what is said of a name, of two things only; the next ask anything
# about two things. To find a thing by its name is learned among few, or very late.
_NAMES, _PAIRS = 700, 1200


def _loss(model: LynxModel, rows: Rows, **pixels: Tensor) -> Tensor:
    return model.loss(rows.input_ids, labels=rows.labels, images=pixels.get("images"), videos=pixels.get("videos"))
