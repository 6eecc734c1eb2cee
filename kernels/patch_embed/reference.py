"""The truth of patch_embed and its gradients: normalise, cut into patches, project, in plain torch.

Shapes: B images, grid Gh x Gw of P x P pixel patches, N = Gh * Gw, D channels out, K = 3 * P * P values a patch.
Everything is computed in float32 (float64 where the weight is float64) and cast to the weight's dtype at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


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
    dtype = _wide(weight)
    patches_BNK = patchify_reference(normalise_reference(image, mean, std, dtype), weight.shape[-1])
    tokens_BND = F.linear(patches_BNK, weight.to(dtype).flatten(1), bias.to(dtype))
    sequence = torch.cat((cls_token.to(dtype).expand(image.shape[0], 1, -1), tokens_BND), dim=1)
    return (sequence + pos_embed.to(dtype)).to(weight.dtype)


def patch_embed_backward_reference(
    dy: Tensor,
    image: Tensor,
    weight: Tensor,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of weight, bias, pos_embed and cls_token for dy [B, 1 + N, D], each in the weight's dtype."""
    dtype = _wide(weight)
    dy = dy.to(dtype)
    d_tokens_MD = dy[:, 1:].flatten(0, 1)
    patches_MK = patchify_reference(normalise_reference(image, mean, std, dtype), weight.shape[-1]).flatten(0, 1)
    d_pos_embed = dy.sum(dim=0, keepdim=True)
    d_weight = (d_tokens_MD.T @ patches_MK).view(weight.shape)
    d_bias, d_cls_token = d_tokens_MD.sum(dim=0), d_pos_embed[:, :1].clone()
    return (
        d_weight.to(weight.dtype),
        d_bias.to(weight.dtype),
        d_pos_embed.to(weight.dtype),
        d_cls_token.to(weight.dtype),
    )


def patch_embed_image_backward_reference(
    dy: Tensor, image: Tensor, weight: Tensor, *, std: Sequence[float] | None = None
) -> Tensor:
    """Gradient of a floating image [B, 3, H, W] for dy [B, 1 + N, D], in the image's dtype."""
    dtype = _wide(weight)
    d_patches = dy[:, 1:].to(dtype) @ weight.to(dtype).flatten(1)
    d_pixels = unpatchify_reference(d_patches, image.shape, weight.shape[-1])
    return (d_pixels if std is None else d_pixels / _per_channel(std, d_pixels)).to(image.dtype)


def normalise_reference(
    image: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None, dtype: torch.dtype
) -> Tensor:
    """(x - mean) / std with x = image / 255 for uint8; returns [B, 3, H, W] in `dtype`. One rounding an operation."""
    pixels = image.permute(0, 3, 1, 2).to(dtype) / 255 if image.dtype == torch.uint8 else image.to(dtype)
    if mean is None or std is None:
        return pixels
    return (pixels - _per_channel(mean, pixels)) / _per_channel(std, pixels)


def patchify_reference(pixels: Tensor, patch_size: int) -> Tensor:
    """[B, 3, H, W] to [B, N, K]: patches in row-major order, each flattened as (channel, row, column)."""
    batch, channels, height, width = pixels.shape
    grid_h, grid_w = height // patch_size, width // patch_size
    cut = pixels.reshape(batch, channels, grid_h, patch_size, grid_w, patch_size)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid_h * grid_w, channels * patch_size**2)


def unpatchify_reference(patches: Tensor, image_shape: Sequence[int], patch_size: int) -> Tensor:
    """[B, N, K] back to [B, 3, H, W]: the inverse of patchify."""
    batch, channels, height, width = image_shape
    grid_h, grid_w = height // patch_size, width // patch_size
    cut = patches.reshape(batch, grid_h, grid_w, channels, patch_size, patch_size)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)


def _wide(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _per_channel(values: Sequence[float], pixels: Tensor) -> Tensor:
    return torch.tensor(values, dtype=pixels.dtype, device=pixels.device)[:, None, None]
