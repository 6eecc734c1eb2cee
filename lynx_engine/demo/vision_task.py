"""The vision encoder's own task: name what every patch shows, and what the whole picture shows.

The heads are linear and are thrown away afterwards; what they could read stays in the encoder's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..media import resize_crop
from ..model.vision import VisionEncoder
from .draw import draw_scene
from .scene import BACKGROUNDS, COLOURS, CROWDED, SHAPES, SIZES, Scene, Thing, sample_scene

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_PATCH_CLASSES = {
    "shape": len(SHAPES),
    "colour": len(COLOURS),
    "size": len(SIZES),
    "letter": len(_LETTERS),
    "centre": 1,
}
_PICTURE_CLASSES = {"count": 8, "background": len(BACKGROUNDS), "word": len(CROWDED.words) + 1}


@dataclass(frozen=True)
class Labelled:
    """Pictures uint8 [B, S, S, 3] with classes of patches [B, N] (0: nothing), offsets of the centre of the thing
    that a patch shows [B, N, 2] in picture sides (NaN: nothing), and classes of the picture [B]."""

    pixels: Tensor
    patches: dict[str, Tensor]
    offsets: Tensor
    picture: dict[str, Tensor]


class VisionTask(nn.Module):
    """The encoder with linear heads on its patch tokens and on its class token."""

    def __init__(self, encoder: VisionEncoder) -> None:
        super().__init__()
        width = encoder.config.hidden_size
        self.encoder = encoder
        self.patch_heads = nn.ModuleDict({k: nn.Linear(width, n + 1) for k, n in _PATCH_CLASSES.items()})
        self.offset_head = nn.Linear(width, 2)
        self.picture_heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in _PICTURE_CLASSES.items()})

    def loss(self, batch: Labelled) -> Tensor:
        tokens = F.layer_norm(self.encoder(batch.pixels), (self.encoder.config.hidden_size,))
        whole, patches = tokens[:, 0], tokens[:, 1:]
        losses = [_patch_loss(self.patch_heads[k](patches), y) for k, y in batch.patches.items()]
        losses += [0.5 * F.cross_entropy(self.picture_heads[k](whole), y) for k, y in batch.picture.items()]
        seen = ~batch.offsets[..., 0].isnan()
        losses.append(5 * F.l1_loss(self.offset_head(patches)[seen], batch.offsets[seen]))
        return torch.stack(losses).sum()


def _patch_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross entropy in which a patch that shows nothing counts a tenth: most patches do."""
    weight = torch.ones(logits.shape[-1])
    weight[0] = 0.1
    return F.cross_entropy(logits.mT, classes, weight)


def place_patches(encoder: VisionEncoder) -> None:
    """Start `pos_embed` from sines and cosines of row and column, so that neighbours are alike from the first step.

    A quarter of the width each: sines of x, cosines of x, the same of y; the class token starts from zero.
    """
    grid, width = encoder.config.grid_size, encoder.config.hidden_size
    frequencies = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [at.flatten()[:, None] * frequencies for at in (x, y)]
    waves = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    with torch.no_grad():
        encoder.pos_embed.zero_()
        encoder.pos_embed[0, 1:] = 0.5 * waves


def labelled_batch(step: int, size: int, side: int, grid: int) -> Labelled:
    """Fresh pictures with their labels on a grid x grid of patches."""
    pixels, labels = [], []
    for i in range(size):
        rng = Random(f"vision {step} {i}")
        scene = sample_scene(rng, CROWDED)
        labels.append(label(scene, grid))
        pixels.append(resize_crop(draw_scene(scene, rng), side))
    patches, offsets, picture = zip(*labels, strict=True)
    return Labelled(torch.stack(pixels), _stacked(patches), torch.stack(offsets), _stacked(picture))


def label(scene: Scene, grid: int) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Classes of patches, offsets to centres, classes of the picture."""
    patches = {name: torch.zeros(grid, grid, dtype=torch.int64) for name in _PATCH_CLASSES}
    offsets = torch.full((grid, grid, 2), torch.nan)
    at = (torch.arange(grid) + 0.5) / grid
    y, x = torch.meshgrid(at, at, indexing="ij")
    for thing in scene.things:
        reach = max(thing.radius * 0.85, 0.6 / grid)
        shown = (x - thing.x) ** 2 + (y - thing.y) ** 2 < reach**2
        for name, value in _classes(thing).items():
            patches[name][shown] = value
        offsets[shown] = torch.stack((thing.x - x, thing.y - y), dim=-1)[shown]
        patches["centre"][min(int(thing.y * grid), grid - 1), min(int(thing.x * grid), grid - 1)] = 1
    word = scene.word
    if word is not None:
        across = (x - word.x) / word.width + 0.5
        written = (across >= 0) & (across < 1) & ((y - word.y).abs() < word.height / 2)
        codes = torch.tensor([_LETTERS.index(letter) + 1 for letter in word.text])
        patches["letter"][written] = codes[(across[written] * len(word.text)).long()]
    picture = {
        "count": torch.tensor(min(len(scene.things), _PICTURE_CLASSES["count"] - 1)),
        "background": torch.tensor(BACKGROUNDS.index(scene.background)),
        "word": torch.tensor(0 if word is None else CROWDED.words.index(word.text) + 1),
    }
    return {name: classes.flatten() for name, classes in patches.items()}, offsets.flatten(0, 1), picture


def _classes(thing: Thing) -> dict[str, int]:
    return {
        "shape": SHAPES.index(thing.shape) + 1,
        "colour": COLOURS.index(thing.colour) + 1,
        "size": SIZES.index(thing.size) + 1,
    }


def _stacked(rows: tuple[dict[str, Tensor], ...]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
