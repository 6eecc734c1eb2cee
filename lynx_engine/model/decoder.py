"""LLaMA decoder with adapters (REFERENCE.md section 5)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..config import LlamaConfig
from .adapter import Adapter


class Cache(Protocol):
    """Keys (after RoPE) and values of the positions already seen; `generate.KVCache` is one."""

    @property
    def length(self) -> int:
        """Positions held by every layer."""
        ...

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k, v [B, S, H, D] of one layer and return everything up to them."""
        ...

    def advance(self, num_tokens: int) -> None:
        """Called once a forward, after the last layer."""
        ...


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, the mean in float32 and the product in x's dtype."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        return self.weight * (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


def rope_tables(position_ids: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [B, S, 1, D] of the half-split rotary embedding, computed in float32 and cast to `dtype`."""
    exponents = torch.arange(0, head_dim, 2, device=position_ids.device, dtype=torch.float32) / head_dim
    angles = position_ids[..., None].float() * (1.0 / theta**exponents)
    angles = torch.cat((angles, angles), dim=-1)[:, :, None, :]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x * cos + rotate_half(x) * sin for x [B, S, H, D]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class LlamaAttention(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        dim = config.hidden_size
        self.layer = layer
        self.num_heads = config.num_heads
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.o_proj = nn.Linear(dim, dim, bias=False)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        kv_mask: Tensor | None = None,
        prefix_lens: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (self.num_heads, -1)) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = apply_rope(q, *rope), apply_rope(k, *rope)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        return self.o_proj(ops.prefix_attention(q, k, v, prefix_lens=prefix_lens, kv_mask=kv_mask).flatten(-2))


class LlamaMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaLayer(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int, adapter: bool) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(config, layer)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.output_adapter = Adapter(config.hidden_size) if adapter else None

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        kv_mask: Tensor | None = None,
        prefix_lens: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope, kv_mask, prefix_lens, cache)
        x = x + self.mlp(self.post_attention_layernorm(x))
        return x if self.output_adapter is None else self.output_adapter(x)


class LlamaModel(nn.Module):
    """Embeddings [B, S, H] to hidden states [B, S, H]."""

    def __init__(self, config: LlamaConfig, adapter_layers: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            LlamaLayer(config, layer, adapter=layer in adapter_layers) for layer in range(config.num_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        prefix_lens: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """`attention_mask` [B, past + S] with 0 at hidden keys; `position_ids` [B, S] default to past, past + 1, ..."""
        past = 0 if cache is None else cache.length
        if position_ids is None:
            position_ids = torch.arange(past, past + x.shape[1], device=x.device)[None]
        rope = rope_tables(position_ids, self.config.head_dim, self.config.rope_theta, x.dtype)
        for layer in self.layers:
            x = layer(x, rope, attention_mask, prefix_lens, cache)
        if cache is not None:
            cache.advance(x.shape[1])
        return self.norm(x)


class LlamaForCausalLM(nn.Module):
    """The decoder and its untied head, named as in checkpoints: `model.*` and `lm_head.weight`."""

    def __init__(self, config: LlamaConfig, adapter_layers: tuple[int, ...]) -> None:
        super().__init__()
        self.model = LlamaModel(config, adapter_layers)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
