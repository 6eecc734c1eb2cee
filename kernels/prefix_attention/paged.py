"""paged_attention: one token of each sequence against a paged KV cache: schema, registration, public function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lynx_engine.contract import Contract
from lynx_engine.errors import LynxError
from lynx_engine.registry import Op, Takes, define, tensor_refusals

from .reference import paged_attention_reference

MAX_HEAD_DIM, MAX_GROUP = 256, 64


def paged_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    seq_lens: Tensor,
    *,
    softmax_scale: float | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """softmax(q k^T * softmax_scale) v for one query a sequence, over keys and values that lie in blocks.

    q [B, H, D] -> o [B, H, D] in q's dtype; k_cache, v_cache [num_blocks, block_size, H_kv, D], any block_size.
    block_table, int32 [B, max_blocks]: key j of sequence b is row j % block_size of block
    block_table[b, j // block_size].
    seq_lens, int32 [B]: sequence b has the keys j < seq_lens[b], and sees them all; with none, o is 0.
    H is a multiple of H_kv (grouped queries): query head h reads KV head h // (H / H_kv).
    The caches are in q's dtype, or int8 with float32 scales k_scale, v_scale [num_blocks, block_size, H_kv], factors of
    their rows: key = k_cache * k_scale. softmax_scale: D**-0.5 by default. There are no gradients.

    A row has the bits of the same row of `prefix_attention` on the same vector backend, whatever the batch, the blocks
    and the thread count.

    LynxError: shapes that do not agree, lengths or blocks out of range, or a `backend` that cannot run the call.
    Source: PagedAttention (arXiv 2309.06180); split over keys as in Flash-Decoding.
    """
    scale = max(1, q.shape[-1]) ** -0.5 if softmax_scale is None else softmax_scale
    if (k_scale is None) != (v_scale is None):
        raise LynxError("paged_attention: k_scale and v_scale go together, got one of them")
    o: Tensor = _paged(q, k_cache, v_cache, block_table, seq_lens, k_scale, v_scale, scale, backend)
    return o


def _check_shapes(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    seq_lens: Tensor,
    k_scale: Tensor | None,
    v_scale: Tensor | None,
) -> None:
    contract = Contract("paged_attention")
    contract.expect("q", q, "B H D")
    contract.expect("k_cache", k_cache, "num_blocks block_size num_kv_heads D")
    contract.expect("v_cache", v_cache, "num_blocks block_size num_kv_heads D")
    contract.expect("block_table", block_table, "B max_blocks")
    contract.expect("seq_lens", seq_lens, "B")
    heads, kv_heads = q.shape[1], k_cache.shape[2]
    if heads and (not kv_heads or heads % kv_heads or heads > MAX_GROUP * kv_heads):
        raise LynxError(
            f"paged_attention: {heads} query heads need num_kv_heads to divide them, at most {MAX_GROUP} to one,"
            f" got {kv_heads}"
        )
    for name, scale in (("k_scale", k_scale), ("v_scale", v_scale)):
        if scale is not None:
            contract.expect(name, scale, "num_blocks block_size num_kv_heads")


def _refusals(takes: Takes, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Sequence[str]:
    quantised = rest[2] is not None and k.dtype == v.dtype == torch.int8
    reasons = [*tensor_refusals(takes, q)] if quantised else [*tensor_refusals(takes, q, k, v)]
    if not 1 <= q.shape[-1] <= MAX_HEAD_DIM:
        reasons.append(f"needs head_dim 1 to {MAX_HEAD_DIM} (got {q.shape[-1]})")
    return reasons


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _native(kernel: Callable[..., None], q: Tensor, k_cache: Tensor, v_cache: Tensor, *rest: Any) -> Tensor:
    block_table, seq_lens, k_scale, v_scale, scale = rest
    o = torch.empty_like(q, memory_format=torch.contiguous_format)
    where = (_rows(block_table.to(torch.int32)), seq_lens.to(torch.int32).contiguous())
    scales = [None if x is None else _rows(x.to(torch.float32)) for x in (k_scale, v_scale)]
    kernel(_rows(q), _rows(k_cache), _rows(v_cache), *where, *scales, scale, o)
    return o


def _reference(*args: Any) -> Tensor:
    *tensors, scale = args
    _check_shapes(*tensors)
    _check_places(tensors[1], *tensors[3:5])
    *caches, k_scale, v_scale = tensors
    return paged_attention_reference(*caches, softmax_scale=scale, k_scale=k_scale, v_scale=v_scale).contiguous()


def _check_places(k_cache: Tensor, block_table: Tensor, seq_lens: Tensor) -> None:
    num_blocks, block_size = k_cache.shape[:2]
    room = block_table.shape[1] * block_size
    for b, length in enumerate(seq_lens.tolist()):
        if not 0 <= length <= room:
            raise LynxError(
                f"paged_attention: seq_lens[{b}] must be 0 to {room}, what block_table[{b}] holds, got {length}"
            )
        for i, block in enumerate(block_table[b, : -(-length // max(1, block_size))].tolist()):
            if not 0 <= block < num_blocks:
                raise LynxError(f"paged_attention: block_table[{b}, {i}] must be 0 to {num_blocks - 1}, got {block}")


def _fake(q: Tensor, *rest: Any) -> Tensor:
    _check_shapes(q, *rest[:-2])
    return q.new_empty(q.shape)


_op = Op("paged_attention", reference=_reference, native=_native, refusals=_refusals)

_paged = define(
    "paged_attention(Tensor q, Tensor k_cache, Tensor v_cache, Tensor block_table, Tensor seq_lens, Tensor? k_scale,"
    " Tensor? v_scale, float softmax_scale, str backend) -> Tensor",
    lambda *args: _op(args[-1], *args[:-1]),
    _fake,
)
