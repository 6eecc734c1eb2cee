"""Perceiver resampler: a fixed number of latents read the vision tokens (REFERENCE.md section 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops
from ..config import BridgeConfig


class ResamplerAttention(nn.Module):
    """Latents attend to the vision tokens only; no biases. latents [B, L, H], media [B, N, Dv] -> [B, L, H]."""

    def __init__(self, config: BridgeConfig, media_size: int, hidden_size: int) -> None:
        super().__init__()
        inner = config.num_heads * config.head_dim
        self.num_heads = config.num_heads
        self.norm_media = nn.LayerNorm(media_size, eps=config.layer_norm_eps)
        self.norm_latents = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.to_q = nn.Linear(hidden_size, inner, bias=False)
        self.to_kv = nn.Linear(media_size, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, hidden_size, bias=False)

    def forward(self, latents: Tensor, media: Tensor) -> Tensor:
        q = self.to_q(self.norm_latents(latents)).unflatten(-1, (self.num_heads, -1))
        kv = self.to_kv(self.norm_media(media)).unflatten(-1, (2, self.num_heads, -1))
        out = ops.prefix_attention(q, kv[..., 0, :, :], kv[..., 1, :, :], causal=False)
        return self.to_out(out.flatten(-2))


def _feed_forward(config: BridgeConfig, hidden_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(hidden_size, eps=config.layer_norm_eps),
        nn.Linear(hidden_size, config.ff_mult * hidden_size, bias=False),
        nn.GELU(),
        nn.Linear(config.ff_mult * hidden_size, hidden_size, bias=False),
    )


class Resampler(nn.Module):
    """Vision tokens [B, N, Dv] of one image, or of all frames of a clip in a row, to [B, num_latents, H]."""

    def __init__(self, config: BridgeConfig, media_size: int, hidden_size: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(config.num_latents, hidden_size))
        self.layers = nn.ModuleList(
            nn.ModuleList([ResamplerAttention(config, media_size, hidden_size), _feed_forward(config, hidden_size)])
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)

    def forward(self, media: Tensor) -> Tensor:
        latents = self.latents.expand(media.shape[0], -1, -1)
        for attention, feed_forward in self.layers:
            latents = latents + attention(latents, media)
            latents = latents + feed_forward(latents)
        return self.norm(latents)
