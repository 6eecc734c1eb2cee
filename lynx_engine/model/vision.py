"""EVA-CLIP ViT: pre-norm blocks, learned absolute positions, no final norm (REFERENCE.md section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops
from ..config import VisionConfig
from .linear import Joint, Linear


class PatchEmbed(nn.Module):
    """Holds the patch projection under the name that checkpoints use; `ops.patch_embed` computes with it."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.hidden_size, config.patch_size, stride=config.patch_size)


class VisionAttention(nn.Module):
    """Full self-attention; q and v carry a bias, k does not."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.num_heads = config.num_heads
        self.q_proj = Linear(dim, dim)
        self.k_proj = Linear(dim, dim, bias=False)
        self.v_proj = Linear(dim, dim)
        self.proj = Linear(dim, dim)
        self._qkv = Joint(self.q_proj, self.k_proj, self.v_proj)

    def forward(self, x_BTD: Tensor, *, norm: nn.LayerNorm | None = None, residual: Tensor | None = None) -> Tensor:
        q, k, v = self._qkv.heads(x_BTD, self.num_heads, norm=norm)
        return self.proj(ops.prefix_attention(q, k, v, causal=False).flatten(-2), residual=residual)


class VisionMLP(nn.Module):
    """fc2(gelu(fc1(x))) with the exact (erf) GELU."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor, *, norm: nn.LayerNorm | None = None, residual: Tensor | None = None) -> Tensor:
        return self.fc2(self.fc1(x, norm=norm, activation="gelu"), residual=residual)


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = VisionAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn(x, norm=self.norm1, residual=x)
        return self.mlp(x, norm=self.norm2, residual=x)


class VisionEncoder(nn.Module):
    """Pixels to tokens: [B, 3, S, S] normalised floats or [B, S, S, 3] uint8 -> [B, 1 + (S/P)^2, D].

    The class token comes first; the output is the last block's, without a final norm.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.num_tokens, config.hidden_size))
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.num_layers))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embed(pixels)
        for block in self.blocks:
            x = block(x)
        return x

    def embed(self, pixels: Tensor) -> Tensor:
        """Patches, positions and class token: the input of the first block."""
        proj = self.patch_embed.proj
        weights = (proj.weight, proj.bias, self.pos_embed, self.cls_token)
        if pixels.dtype == torch.uint8:
            return ops.patch_embed(pixels, *weights, mean=self.config.image_mean, std=self.config.image_std)
        return ops.patch_embed(pixels.to(proj.weight.dtype), *weights)
