"""LLaMA decoder with adapters (REFERENCE.md section 5)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from .. import ops
from ..config import LlamaConfig
from .adapter import Adapter
from .linear import Joint, Linear
from .step import decode_step


class Cache(Protocol):
    """Keys (after RoPE) and values of the positions already seen; `generate.KVCache` is one."""

    @property
    def length(self) -> int:
        """Positions held by every layer."""
        ...

    def reserve(self, layer: int, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where k's shape [B, S, H, D] of keys and values goes: both memories [B, capacity, H, D], starts int64 [B]."""
        ...

    def advance(self, num_tokens: int) -> None:
        """Called once a forward, after the last layer."""
        ...


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight; see `ops.rms_norm`."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, eps=self.eps)


def rope_tables(position_ids: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [..., D] of the half-split rotary embedding, computed in float32 and cast to `dtype`."""
    exponents = torch.arange(0, head_dim, 2, device=position_ids.device, dtype=torch.float32) / head_dim
    angles = position_ids[..., None].float() * (1.0 / theta**exponents)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


class Rope:
    """`rope_tables` of all positions up to some, made once: a decode step takes one row of them."""

    def __init__(self, config: LlamaConfig) -> None:
        self.config = config
        self._tables: tuple[Tensor, Tensor] | None = None

    def rows(self, begin: int, end: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [1, end - begin, D] of consecutive positions, in the dtype and on the device of `like`."""
        cos, sin = self._up_to(end, like)
        return cos[None, begin:end], sin[None, begin:end]

    def at(self, position_ids: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [B, S, D] of any positions [B, S]."""
        cos, sin = self._up_to(int(position_ids.max()) + 1 if position_ids.numel() else 0, like)
        return cos[position_ids], sin[position_ids]

    def _up_to(self, end: int, like: Tensor) -> tuple[Tensor, Tensor]:
        tables = self._tables
        if tables is None or end > len(tables[0]) or tables[0].dtype != like.dtype or tables[0].device != like.device:
            length = self.config.max_position_embeddings
            while length < end:
                length *= 2
            with torch.inference_mode(False), torch.no_grad():  # training may save them for its backward pass
                positions = torch.arange(length, device=like.device)
                tables = rope_tables(positions, self.config.head_dim, self.config.rope_theta, like.dtype)
            self._tables = tables
        return tables


class LlamaAttention(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        dim = config.hidden_size
        self.layer = layer
        self.num_heads = config.num_heads
        self.q_proj = Linear(dim, dim, bias=False)
        self.k_proj = Linear(dim, dim, bias=False)
        self.v_proj = Linear(dim, dim, bias=False)
        self.o_proj = Linear(dim, dim, bias=False)
        self.qkv = Joint(self.q_proj, self.k_proj, self.v_proj)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        kv_mask: Tensor | None = None,
        prefix_lens: Tensor | None = None,
        cache: Cache | None = None,
        *,
        residual: Tensor | None = None,
    ) -> Tensor:
        q, k, v = self.qkv.heads(x, self.num_heads)
        if cache is None:
            q, k = ops.rope(q, k, *rope)
        else:
            keys, values, starts = cache.reserve(self.layer, k)
            q = ops.rope_append_kv(q, k, v, *rope, keys, values, starts=starts)
            end = cache.length + x.shape[1]
            k, v = keys[:, :end], values[:, :end]
        out = ops.prefix_attention(q, k, v, prefix_lens=prefix_lens, kv_mask=kv_mask)
        return self.o_proj(out.flatten(-2), residual=residual)


class LlamaMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.gate_up = Joint(self.gate_proj, self.up_proj, gated=True)

    def forward(self, x: Tensor, *, residual: Tensor | None = None) -> Tensor:
        return self.down_proj(self.gate_up.swiglu(x), residual=residual)


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
        x = self.self_attn(self.input_layernorm(x), rope, kv_mask, prefix_lens, cache, residual=x)
        x = self.mlp(self.post_attention_layernorm(x), residual=x)
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
        self._rope = Rope(config)

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
        rope = self._rope.rows(past, past + x.shape[1], x) if position_ids is None else self._rope.at(position_ids, x)
        if cache is not None and x.shape[1] == 1 and prefix_lens is None:
            hidden = decode_step(self, x, rope, attention_mask, cache)
            if hidden is not None:
                cache.advance(1)
                return hidden
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
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
