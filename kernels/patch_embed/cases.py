"""Shapes of patch_embed: Lynx's for the benchmarks, small and awkward ones for the tests."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lynx_engine.cases import ANY_DEVICE, Case, Suite
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
    batch: int,
    grid: tuple[int, int],
    patch_size: int,
    channels: int,
    pixels: str,
    *,
    bench: tuple[str, ...] = (),
) -> Case:
    tokens, depth = batch * grid[0] * grid[1], 3 * patch_size**2
    positions = 1 + grid[0] * grid[1]
    weights, outputs = channels * (depth + 2 + positions), batch * positions * channels
    numbers = tokens * depth if pixels == "floats" else 0
    exact = f"{pixels} B={batch} grid={grid[0]}x{grid[1]} P={patch_size} D={channels}"
    return Case(
        name=f"{pixels} {grid[0] * patch_size} B={batch}" if bench else exact,
        make=functools.partial(make, batch, grid, patch_size, channels, pixels),
        flops=2 * tokens * depth * channels,
        elements=numbers + weights + outputs,
        other_bytes=tokens * depth - numbers,
        backward_flops=(2 if pixels == "bytes" else 4) * tokens * depth * channels,
        backward_elements=2 * numbers + 2 * weights + outputs,
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


def reshape_and_linear(arguments: dict[str, Any]) -> Callable[[], Tensor]:
    """Normalise, cut into patches by views, one product, add: the fastest way through torch found on a CPU."""
    image, weight = arguments["image"], arguments["weight"]
    patch_size, matrix = weight.shape[-1], weight.flatten(1)
    mean, std = (torch.tensor(arguments.get(name) or (fill,) * 3) for name, fill in (("mean", 0.0), ("std", 1.0)))
    cls_token, pos_embed = arguments["cls_token"], arguments["pos_embed"]

    def call() -> Tensor:
        pixels = image
        if image.dtype == torch.uint8:
            pixels = ((image.float() / 255 - mean) / std).to(weight.dtype).permute(0, 3, 1, 2)
        patches = pixels.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size)).permute(0, 2, 4, 1, 3, 5)
        tokens = F.linear(patches.flatten(3).flatten(1, 2), matrix, arguments["bias"])
        return torch.cat((cls_token.expand(tokens.shape[0], -1, -1), tokens), dim=1) + pos_embed

    return call


def suite(pixels: str, differentiable: tuple[str, ...]) -> Suite:
    lynx = [(batch, (side, side)) for side in (16, 30) for batch in (1, 8, 64)]
    return Suite(
        op="patch_embed",
        function=patch_embed,
        reference=patch_embed_reference,
        plain=plain_patch_embed,
        cases=(
            *(case(*sizes, pixels) for sizes in TESTED),
            *(case(batch, grid, LYNX_PATCH, LYNX_D, pixels, bench=ANY_DEVICE) for batch, grid in lynx),
        ),
        differentiable=differentiable,
        peers={"linear": reshape_and_linear},
        rival="linear",
    )


PARAMETERS = ("weight", "bias", "pos_embed", "cls_token")
SUITES = (suite("bytes", PARAMETERS), suite("floats", ("image", *PARAMETERS)))
