"""The decoder without adapters as a GGUF file of architecture "llama", tensor by tensor; it has no vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import gguf
import numpy as np
import torch
from torch import Tensor

from lynx_engine import ops
from lynx_engine.model.linear import Linear

if TYPE_CHECKING:
    from lynx_engine.config import LlamaConfig
    from lynx_engine.model.decoder import LlamaForCausalLM, LlamaLayer

_TYPES = {torch.float32: gguf.GGMLQuantizationType.F32, torch.bfloat16: gguf.GGMLQuantizationType.BF16}
_FILE_TYPES = {torch.float32: gguf.LlamaFileType.ALL_F32, torch.bfloat16: gguf.LlamaFileType.MOSTLY_BF16}


class _Entry(NamedTuple):
    """A tensor of the file, its numbers when they are asked for."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def write_gguf(path: Path, llm: LlamaForCausalLM, config: LlamaConfig, dtype: torch.dtype) -> None:
    """Matrices in `dtype`, norms in float32 as llama.cpp wants them."""
    writer = gguf.GGUFWriter(path, "llama")
    _add_settings(writer, config, dtype)
    entries = list(_entries(llm, config.num_heads))
    for entry in entries:
        kind = torch.float32 if len(entry.shape) == 1 else dtype
        nbytes = int(np.prod(entry.shape)) * kind.itemsize
        writer.add_tensor_info(entry.name, entry.shape, np.dtype(np.float32), nbytes, _TYPES[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for entry in entries:
        kind = torch.float32 if len(entry.shape) == 1 else dtype
        writer.write_tensor_data(entry.read().to(kind).contiguous().view(torch.uint8).numpy())
    writer.close()


def _add_settings(writer: Any, config: LlamaConfig, dtype: torch.dtype) -> None:
    writer.add_file_type(_FILE_TYPES[dtype])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")


def _entries(llm: LlamaForCausalLM, num_heads: int) -> Iterator[_Entry]:
    model = llm.model
    yield _vector_or_table("token_embd.weight", model.embed_tokens.weight)
    for number, layer in enumerate(cast("list[LlamaLayer]", list(model.layers))):
        attention, mlp = layer.self_attn, layer.mlp
        yield _vector_or_table(f"blk.{number}.attn_norm.weight", layer.input_layernorm.weight)
        yield _matrix(f"blk.{number}.attn_q.weight", attention.q_proj, num_heads)
        yield _matrix(f"blk.{number}.attn_k.weight", attention.k_proj, num_heads)
        yield _matrix(f"blk.{number}.attn_v.weight", attention.v_proj)
        yield _matrix(f"blk.{number}.attn_output.weight", attention.o_proj)
        yield _vector_or_table(f"blk.{number}.ffn_norm.weight", layer.post_attention_layernorm.weight)
        yield _matrix(f"blk.{number}.ffn_gate.weight", mlp.gate_proj)
        yield _matrix(f"blk.{number}.ffn_up.weight", mlp.up_proj)
        yield _matrix(f"blk.{number}.ffn_down.weight", mlp.down_proj)
    yield _vector_or_table("output_norm.weight", model.norm.weight)
    yield _matrix("output.weight", llm.lm_head)


def _vector_or_table(name: str, tensor: Tensor) -> _Entry:
    return _Entry(name, tuple(tensor.shape), tensor.detach)


def _matrix(name: str, linear: Linear, turned_heads: int | None = None) -> _Entry:
    """`turned_heads`: of q and k, whose rows llama.cpp turns in pairs (2 i, 2 i + 1), not (i, i + D / 2)."""
    shape = (linear.out_features, linear.in_features)

    def read() -> Tensor:
        weight = _dense(linear)
        if turned_heads is None:
            return weight
        return weight.view(turned_heads, 2, -1, shape[1]).transpose(1, 2).reshape(shape)

    return _Entry(name, shape, read)


def _dense(linear: Linear) -> Tensor:
    """[N, K], whether plain, packed or quantised; of the last the numbers that it stands for."""
    if linear.codes is None or linear.scales is None:
        weight: Tensor = linear.state_dict()["weight"]
        return weight
    return ops.dequantize_linear(linear.codes, linear.scales, linear.out_features, linear.in_features)
