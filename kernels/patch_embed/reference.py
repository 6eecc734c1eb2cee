"""The truth of patch_embed: normalise, cut into patches, project, in plain torch.

Shapes: B images, grid Gh x Gw of P x P pixel patches, N = Gh * Gw, D channels out.
Everything is computed in float32 (float64 where the weight is float64) and cast to the weight's dtype at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def normalise_reference(
    image: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None, dtype: torch.dtype
) -> Tensor:
    """(x - mean) / std with x = image / 255 for uint8; returns [B, 3, H, W] in `dtype`. One rounding an operation."""
    pixels = image.permute(0, 3, 1, 2).to(dtype) / 255 if image.dtype == torch.uint8 else image.to(dtype)
    if mean is None or std is None:
        return pixels
    mean_311, std_311 = (torch.tensor(values, dtype=dtype, device=image.device)[:, None, None] for values in (mean, std))
    return (pixels - mean_311) / std_311


def patchify_reference(pixels: Tensor, patch_size: int) -> Tensor:
    """[B, 3, H, W] to [B, N, 3 * P * P]: patches in row-major order, each flattened as (channel, row, column)."""
    batch, channels, height, width = pixels.shape
    grid_h, grid_w = height // patch_size, width // patch_size
    cut = pixels.reshape(batch, channels, grid_h, patch_size, grid_w, patch_size)
    flat = (batch, grid_h * grid_w, channels * patch_size**2)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(flat)


def patch_embed_reference(
    image: Tensor,
    weight: Tensor,
    bias: Tensor,
    pos_embed: Tensor,
    cls_token: Tensor,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Tensor:
    """cat(cls_token, patches(normalise(image)) @ weight^T + bias) + pos_embed: [B, 1 + N, D] in the weight's dtype."""
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    patches = patchify_reference(normalise_reference(image, mean, std, dtype), weight.shape[-1])
    tokens = torch.nn.functional.linear(patches, weight.to(dtype).flatten(1), bias.to(dtype))
    sequence = torch.cat((cls_token.to(dtype).expand(image.shape[0], 1, -1), tokens), dim=1)
    return (sequence + pos_embed.to(dtype)).to(weight.dtype)
