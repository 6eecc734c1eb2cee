"""Perceiver resampler: a fixed number of latents read the vision tokens (REFERENCE.md section 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops
from ..config import BridgeConfig
from .linear import Linear


class ResamplerAttention(nn.Module):
    """Latents attend to the vision tokens only; no biases. latents [B, L, H], media [B, N, Dv] -> [B, L, H]."""

    def __init__(self, config: BridgeConfig, media_size: int, hidden_size: int) -> None:
        super().__init__()
        inner = config.num_heads * config.head_dim
        self.num_heads = config.num_heads
        self.norm_media = nn.LayerNorm(media_size, eps=config.layer_norm_eps)
        self.norm_latents = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.to_q = Linear(hidden_size, inner, bias=False)
        self.to_kv = Linear(media_size, 2 * inner, bias=False)
        self.to_out = Linear(inner, hidden_size, bias=False)

    def forward(self, latents: Tensor, media: Tensor, *, residual: Tensor | None = None) -> Tensor:
        q = self.to_q(latents, norm=self.norm_latents).unflatten(-1, (self.num_heads, -1))
        kv = self.to_kv(media, norm=self.norm_media).unflatten(-1, (2, self.num_heads, -1))
        out = ops.prefix_attention(q, kv[..., 0, :, :], kv[..., 1, :, :], causal=False)
        return self.to_out(out.flatten(-2), residual=residual)


class FeedForward(nn.Sequential):
    """fc2(gelu(fc1(norm(x)))) without biases; a Sequential for the names of its parameters: 0, 1 and 3."""

    def __init__(self, config: BridgeConfig, hidden_size: int) -> None:
        super().__init__(
            nn.LayerNorm(hidden_size, eps=config.layer_norm_eps),
            Linear(hidden_size, config.ff_mult * hidden_size, bias=False),
            nn.GELU(),
            Linear(config.ff_mult * hidden_size, hidden_size, bias=False),
        )

    def forward(self, x: Tensor, *, residual: Tensor | None = None) -> Tensor:
        norm, fc1, _, fc2 = self
        out: Tensor = fc2(fc1(x, norm=norm, activation="gelu"), residual=residual)
        return out


class Resampler(nn.Module):
    """Vision tokens [B, N, Dv] of one image, or of all frames of a clip in a row, to [B, num_latents, H]."""

    def __init__(self, config: BridgeConfig, media_size: int, hidden_size: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(config.num_latents, hidden_size))
        self.layers = nn.ModuleList(
            nn.ModuleList([ResamplerAttention(config, media_size, hidden_size), FeedForward(config, hidden_size)])
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)

    def forward(self, media: Tensor) -> Tensor:
        latents = self.latents.expand(media.shape[0], -1, -1)
        for attention, feed_forward in self.layers:
            latents = attention(latents, media, residual=latents)
            latents = feed_forward(latents, residual=latents)
        return self.norm(latents)
