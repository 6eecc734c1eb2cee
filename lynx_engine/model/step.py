"""A decode step on prepared calls: one token of every row, through kernels that are chosen once a step.

An op called by name takes 8 to 12 us, its kernel in a small model 3 (Zen 5): shapes are looked at, a backend is chosen,
memory is found. Here the shapes of all layers are the same, and so are the kernels and the memory between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from .. import registry
from ..eager import needs_no_dispatcher
from .weight import Weight

if TYPE_CHECKING:
    from .decoder import Cache, LlamaLayer, LlamaModel

Kernel = Callable[..., None]


class Weights(NamedTuple):
    """What a layer's kernels read."""

    input_norm: Tensor
    qkv: Weight
    o: Weight
    post_norm: Tensor
    gate_up: Weight
    down: Weight

    @classmethod
    def of(cls, layer: LlamaLayer) -> Weights | None:
        """None where something is neither packed nor quantised, or both are found."""
        attention, mlp = layer.self_attn, layer.mlp
        qkv, o, gate_up, down = (m.strips() for m in (attention.qkv, attention.o_proj, mlp.gate_up, mlp.down_proj))
        if qkv is None or o is None or gate_up is None or down is None or not attention.qkv.even:
            return None
        if not qkv.op == o.op == gate_up.op == down.op:
            return None
        return cls(layer.input_layernorm.weight, qkv, o, layer.post_attention_layernorm.weight, gate_up, down)


class Scratch:
    """Memory between the kernels of a layer, for B rows: the same for all layers of a step."""

    def __init__(self, decoder: LlamaModel, x: Tensor) -> None:
        config, rows = decoder.config, x.shape[0]
        heads = config.num_heads, config.head_dim
        self.normed, self.attended, self.out = x.new_empty(3, rows, config.hidden_size)
        self.qkv = x.new_empty(rows, 3 * config.hidden_size)
        self.q, self.k, self.v = self.qkv.view(rows, 1, 3, *heads).unbind(2)
        self.turned, self.heads = x.new_empty(2, rows, 1, *heads)
        self.joined = self.heads.view(rows, config.hidden_size)
        self.hidden = x.new_empty(rows, config.intermediate_size)
        self.stats = torch.empty(rows, config.num_heads, 1, 2)


def decode_step(
    decoder: LlamaModel, x: Tensor, rope: tuple[Tensor, Tensor], kv_mask: Tensor | None, cache: Cache
) -> Tensor | None:
    """Hidden states [B, 1, H] after the final norm; None where a layer's linears are neither packed nor quantised, or
    not as those of the others, or where an op has no kernel.

    x [B, 1, H]; arguments as `LlamaLayer` takes them. The numbers are those of the layers, to the bit.
    """
    layers = cast("list[LlamaLayer]", list(decoder.layers))
    weights = [w for layer in layers if (w := Weights.of(layer)) is not None]
    if torch.is_grad_enabled() or not needs_no_dispatcher((x, kv_mask)):
        return None
    if len(weights) < len(layers) or len({w.qkv.op for w in weights}) != 1:
        return None
    s, rows = Scratch(decoder, x), x.reshape(len(x), -1)
    memory = [cache.reserve(index, s.k) for index in range(len(layers))]
    keys, values, starts = memory[0]
    end, scale = cache.length + 1, decoder.config.head_dim**-0.5
    op = registry.ops()
    norm = op["rms_norm"].kernel(rows, None, weights[0].input_norm, None)
    linear = weights[0].qkv.prepare(rows)
    append = op["rope_append_kv"].kernel(s.q, s.k, s.v, *rope, keys, values)
    attend = op["prefix_attention"].kernel(s.turned, keys, values)
    if norm is None or linear is None or append is None or attend is None:
        return None
    mask = kv_mask if kv_mask is None or kv_mask.dtype == torch.bool else kv_mask != 0
    for layer, w, (keys, values, _) in zip(layers, weights, memory, strict=True):
        norm(rows, None, w.input_norm, None, layer.input_layernorm.eps, s.normed, None)
        linear(s.normed, w.qkv, None, "none", s.qkv)
        append(s.q, s.k, s.v, *rope, keys, values, starts, None, s.turned)
        attend(s.turned, keys[:, :end], values[:, :end], None, mask, True, scale, s.heads, s.stats)
        linear(s.joined, w.o, rows, "none", s.attended)
        norm(s.attended, None, w.post_norm, None, layer.post_attention_layernorm.eps, s.normed, None)
        linear(s.normed, w.gate_up, None, "gated_silu", s.hidden)
        linear(s.hidden, w.down, s.attended, "none", s.out)
        rows = s.out if layer.output_adapter is None else layer.output_adapter(s.out)
    hidden = torch.empty_like(x)
    norm(rows, None, decoder.norm.weight, None, decoder.norm.eps, hidden.view(rows.shape), None)
    return hidden
