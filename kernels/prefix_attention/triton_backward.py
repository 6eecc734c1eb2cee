"""The backward kernels of prefix_attention in Triton: one for d_q, one for d_k and d_v, so that nothing is added twice.

    P = exp(S - m) / l     d_v = P^T d_o     d_S = P (d_o v^T - delta), 0 where hidden     delta = sum over D of o d_o
    d_q = scale d_S k      d_k = scale d_S^T q

Where all keys of a tile of queries fit one block, the kernel of d_q sums P d_P itself and leaves that as delta: on
short rows, where one P is near 1, the rounding of o would show. It runs before the kernel of d_k and d_v.

Seven products instead of the five of a kernel that adds to d_q from every block of keys: no atomics, so every run gives
the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lynx_engine.device import narrow, product, wide

from .triton_forward import LOWEST, hidden, key_blocks, sequence


@triton.jit
def attention_delta(
    d_o,
    o,
    delta,
    d_o_b,
    d_o_s,
    d_o_h,
    o_b,
    o_s,
    o_h,
    H,
    Sq,
    D: tl.constexpr,
    tiles,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """delta [B, H, Sq] = sum over D of o d_o, float32."""
    h = (tl.program_id(0) // tiles % H).to(tl.int64)
    b = (tl.program_id(0) // tiles // H).to(tl.int64)
    i = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    row = i[:, None].to(tl.int64)
    d = tl.arange(0, BLOCK_D)[None, :]
    there = (row < Sq) & (d < D)
    left = wide(tl.load(o + b * o_b + h * o_h + row * o_s + d, mask=there, other=0.0))
    right = wide(tl.load(d_o + b * d_o_b + h * d_o_h + row * d_o_s + d, mask=there, other=0.0))
    tl.store(delta + (b * H + h) * Sq + i, tl.sum(left * right, axis=1), mask=i < Sq)


@triton.jit
def attention_backward_q(
    d_o, q, k, v, stats, delta, d_q, cu_seqlens_q, cu_seqlens_k, prefix_lens, kv_mask,
    d_o_b, d_o_s, d_o_h, q_b, q_s, q_h, k_b, k_s, k_h, v_b, v_s, v_h, mask_b, scale, B, H, Sq, Sk,
    D: tl.constexpr, tiles, CAUSAL: tl.constexpr, PREFIX: tl.constexpr, MASK: tl.constexpr, PACKED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """d_q [B, Sq, H, D] of a tile of queries: through the keys that any of them sees."""
    tile, h = tiles - 1 - tl.program_id(0) % tiles, (tl.program_id(0) // tiles % H).to(tl.int64)
    b = (tl.program_id(0) // tiles // H).to(tl.int64)
    d_q += (b * Sq * H + h) * D
    stats += (b * H + h) * Sq * 2
    delta += (b * H + h) * Sq
    s, tile, q_start, Sq, k_start, Sk = sequence(
        tile, b, B, cu_seqlens_q, cu_seqlens_k, Sq, Sk, PACKED, OF_KEYS=False, BLOCK=BLOCK_M
    )
    i = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    row = q_start + i
    d = tl.arange(0, BLOCK_D)[None, :]
    there = (i < Sq)[:, None] & (d < D)
    q_tile = tl.load(q + b * q_b + h * q_h + row[:, None] * q_s + d, mask=there, other=0.0)
    d_o_tile = tl.load(d_o + b * d_o_b + h * d_o_h + row[:, None] * d_o_s + d, mask=there, other=0.0)
    m = tl.load(stats + row * 2, mask=i < Sq, other=0.0)
    inverse = 1.0 / tl.load(stats + row * 2 + 1, mask=i < Sq, other=float("inf"))
    dots = tl.load(delta + row, mask=i < Sq, other=0.0)
    k += b * k_b + h * k_h + k_start * k_s
    v += b * v_b + h * v_h + k_start * v_s
    prefix = tl.minimum(tl.load(prefix_lens + s), Sk) if PREFIX else 0
    _, limit = key_blocks(tile * BLOCK_M, Sq, Sk, prefix, CAUSAL, MASK, BLOCK_M, BLOCK_N)
    dtype: tl.constexpr = q.dtype.element_ty
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for first in range(0, limit, BLOCK_N):
        j = first + tl.arange(0, BLOCK_N)
        inside = (j < Sk)[:, None] & (d < D)
        k_tile = tl.load(k + j[:, None] * k_s + d, mask=inside, other=0.0)
        v_tile = tl.load(v + j[:, None] * v_s + d, mask=inside, other=0.0)
        scores = product(q_tile, tl.trans(k_tile), dtype) * scale
        scores = hidden(scores, i[:, None], j[None, :], kv_mask + b * mask_b, Sq, Sk, prefix, CAUSAL, MASK)
        p = tl.exp(scores - m[:, None]) * inverse[:, None]
        d_p = product(d_o_tile, tl.trans(v_tile), dtype)
        if limit <= BLOCK_N:
            dots = tl.sum(p * d_p, axis=1)
        d_s = p * (d_p - dots[:, None])
        d_s = tl.where(scores <= LOWEST, 0.0, d_s)
        acc += product(narrow(d_s, dtype), k_tile, dtype)
    tl.store(d_q + row[:, None].to(tl.int64) * H * D + d, narrow(acc * scale, dtype), mask=there)
    if limit <= BLOCK_N:
        tl.store(delta + row, dots, mask=i < Sq)


@triton.jit
def attention_backward_kv(
    d_o, q, k, v, stats, delta, d_k, d_v, cu_seqlens_q, cu_seqlens_k, prefix_lens, kv_mask,
    d_o_b, d_o_s, d_o_h, q_b, q_s, q_h, k_b, k_s, k_h, v_b, v_s, v_h, mask_b, scale, B, H, Sq, Sk,
    D: tl.constexpr, tiles, CAUSAL: tl.constexpr, PREFIX: tl.constexpr, MASK: tl.constexpr, PACKED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """d_k and d_v [B, Sk, H, D] of a tile of keys: through the queries that any of them is seen by, and blind ones."""
    tile, h = tl.program_id(0) % tiles, (tl.program_id(0) // tiles % H).to(tl.int64)
    b = (tl.program_id(0) // tiles // H).to(tl.int64)
    d_k += (b * Sk * H + h) * D
    d_v += (b * Sk * H + h) * D
    stats += (b * H + h) * Sq * 2
    delta += (b * H + h) * Sq
    s, tile, q_start, Sq, k_start, Sk = sequence(
        tile, b, B, cu_seqlens_q, cu_seqlens_k, Sq, Sk, PACKED, OF_KEYS=True, BLOCK=BLOCK_N
    )
    j = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    row = k_start + j
    d = tl.arange(0, BLOCK_D)[None, :]
    there = (j < Sk)[:, None] & (d < D)
    k_tile = tl.load(k + b * k_b + h * k_h + row[:, None] * k_s + d, mask=there, other=0.0)
    v_tile = tl.load(v + b * v_b + h * v_h + row[:, None] * v_s + d, mask=there, other=0.0)
    q += b * q_b + h * q_h + q_start * q_s
    d_o += b * d_o_b + h * d_o_h + q_start * d_o_s
    prefix = tl.minimum(tl.load(prefix_lens + s), Sk) if PREFIX else 0
    begin = first_query(tile * BLOCK_N, Sq, Sk, prefix, CAUSAL, MASK, BLOCK_M)
    dtype: tl.constexpr = k.dtype.element_ty
    k_acc = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    v_acc = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for first in range(begin, Sq, BLOCK_M):
        i = first + tl.arange(0, BLOCK_M)
        inside = (i < Sq)[:, None] & (d < D)
        q_tile = tl.load(q + i[:, None] * q_s + d, mask=inside, other=0.0)
        d_o_tile = tl.load(d_o + i[:, None] * d_o_s + d, mask=inside, other=0.0)
        m = tl.load(stats + (q_start + i) * 2, mask=i < Sq, other=0.0)
        inverse = 1.0 / tl.load(stats + (q_start + i) * 2 + 1, mask=i < Sq, other=float("inf"))
        dots = tl.load(delta + q_start + i, mask=i < Sq, other=0.0)
        scores = product(k_tile, tl.trans(q_tile), dtype) * scale
        scores = hidden(scores, i[None, :], j[:, None], kv_mask + b * mask_b, Sq, Sk, prefix, CAUSAL, MASK)
        p = tl.exp(scores - m[None, :]) * inverse[None, :]
        v_acc += product(narrow(p, dtype), d_o_tile, dtype)
        d_s = p * (product(v_tile, tl.trans(d_o_tile), dtype) - dots[None, :])
        d_s = tl.where(scores <= LOWEST, 0.0, d_s)
        k_acc += product(narrow(d_s, dtype), q_tile, dtype)
    out = row[:, None].to(tl.int64) * H * D + d
    tl.store(d_k + out, narrow(k_acc * scale, dtype), mask=there)
    tl.store(d_v + out, narrow(v_acc, dtype), mask=there)


@triton.jit
def first_query(first, Sq, Sk, prefix, CAUSAL: tl.constexpr, MASK: tl.constexpr, BLOCK_M: tl.constexpr):
    """The block of queries from which on keys from `first` on matter. A query that sees no key matters to all of them:
    there may be such where keys are masked or where queries stand before the first key."""
    begin = 0
    if CAUSAL and not MASK:
        begin = tl.where((first < prefix) | (Sq > Sk), 0, tl.maximum(first - Sk + Sq, 0)) // BLOCK_M * BLOCK_M
    return begin
