"""Shapes of patch_embed: Lynx's for the benchmarks, small and awkward ones for the tests."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lynx_engine.cases import Case, Suite
from lynx_engine.config import CLIP_MEAN, CLIP_STD

from .op import patch_embed
from .reference import patch_embed_reference

LYNX_PATCH, LYNX_D = 14, 1408
TESTED = (
    # images, grid, patch size, channels out
    (1, (2, 2), 14, 64),
    (2, (3, 5), 14, 40),
    (3, (1, 1), 1, 1),
    (2, (4, 3), 5, 17),
    (1, (9, 7), 3, 33),
    (2, (2, 1), 33, 31),
    (1, (18, 15), 4, 48),
    (0, (2, 2), 14, 16),
    (2, (0, 3), 14, 16),
)


def make(
    batch: int,
    grid: tuple[int, int],
    patch_size: int,
    channels: int,
    pixels: str,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Inputs of one call; `pixels` is "bytes" (with CLIP's mean and std) or "floats" (normalised already)."""

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * std).to(dtype)

    height, width = (side * patch_size for side in grid)
    positions = 1 + grid[0] * grid[1]
    arguments: dict[str, Any] = {
        "weight": normal(channels, 3, patch_size, patch_size, std=(3 * patch_size**2) ** -0.5),
        "bias": normal(channels, std=0.1),
        "pos_embed": normal(1, positions, channels, std=0.3),
        "cls_token": normal(1, 1, channels, std=0.3),
    }
    if pixels == "floats":
        return {"image": normal(batch, 3, height, width), **arguments}
    image = torch.randint(0, 256, (batch, height, width, 3), generator=generator, dtype=torch.uint8)
    return {"image": image, **arguments, "mean": CLIP_MEAN, "std": CLIP_STD}


def case(
    batch: int, grid: tuple[int, int], patch_size: int, channels: int, pixels: str, *, bench: bool = False
) -> Case:
    tokens, depth = batch * grid[0] * grid[1], 3 * patch_size**2
    pixel_bytes = tokens * depth * (1 if pixels == "bytes" else 2)
    positions = 1 + grid[0] * grid[1]
    return Case(
        name=f"{pixels} B={batch} grid={grid[0]}x{grid[1]} P={patch_size} D={channels}",
        make=functools.partial(make, batch, grid, patch_size, channels, pixels),
        flops=2 * tokens * depth * channels,
        bytes=pixel_bytes + 2 * channels * (depth + 2 + positions + batch * positions),
        bench=bench,
    )


def plain_patch_embed(
    image: Tensor,
    weight: Tensor,
    bias: Tensor,
    pos_embed: Tensor,
    cls_token: Tensor,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Tensor:
    """The authors' preprocessing and module: a convolution whose stride is its kernel, in the weight's dtype."""
    pixels = image.permute(0, 3, 1, 2).float() / 255 if image.dtype == torch.uint8 else image
    if mean is not None and std is not None:
        pixels = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    patch_size = weight.shape[-1]
    grid = [side // patch_size for side in pixels.shape[2:]]
    if pixels.numel() == 0:  # torch's convolution refuses a grid without patches
        tokens = pixels.new_zeros(pixels.shape[0], grid[0] * grid[1], weight.shape[0], dtype=weight.dtype)
    else:
        tokens = F.conv2d(pixels.to(weight.dtype), weight, bias, stride=patch_size).flatten(2).transpose(1, 2)
    return torch.cat((cls_token.expand(tokens.shape[0], -1, -1), tokens), dim=1) + pos_embed


def suite(pixels: str, differentiable: tuple[str, ...]) -> Suite:
    lynx = ((1, (30, 30)), (8, (30, 30)), (1, (16, 16)))
    return Suite(
        op="patch_embed",
        function=patch_embed,
        reference=patch_embed_reference,
        plain=plain_patch_embed,
        cases=(
            *(case(*sizes, pixels) for sizes in TESTED),
            *(case(batch, grid, LYNX_PATCH, LYNX_D, pixels, bench=True) for batch, grid in lynx),
        ),
        differentiable=differentiable,
    )


PARAMETERS = ("weight", "bias", "pos_embed", "cls_token")
SUITES = (suite("bytes", PARAMETERS), suite("floats", ("image", *PARAMETERS)))
