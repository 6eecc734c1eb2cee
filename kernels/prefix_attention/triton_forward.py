"""The forward kernel of prefix_attention in Triton, and what it shares with the backward ones.

A program owns BLOCK_M queries of one head and goes through their keys in blocks of BLOCK_N with an online softmax
(FlashAttention-2, arXiv 2307.08691). The cut into blocks is the same for every program, so a row's bits do not
depend on the batch around it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lynx_engine.device import narrow, product

# The score of a hidden key: finite, so that a row which sees no key is uniform over all of them (reference.py).
LOWEST = tl.constexpr(-3.4028234663852886e38)


@triton.jit
def attention_forward(
    q, k, v, o, stats, cu_seqlens_q, cu_seqlens_k, prefix_lens, kv_mask,
    q_b, q_s, q_h, k_b, k_s, k_h, v_b, v_s, v_h, mask_b, scale, B, H, Sq, Sk, D: tl.constexpr, tiles,
    CAUSAL: tl.constexpr, PREFIX: tl.constexpr, MASK: tl.constexpr, PACKED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """o [B, Sq, H, D] and stats [B, H, Sq, 2]; PACKED: o [Sq, H, D] and stats [H, Sq, 2] of all sequences' rows."""
    tile, h = tiles - 1 - tl.program_id(0) % tiles, (tl.program_id(0) // tiles % H).to(tl.int64)
    b = (tl.program_id(0) // tiles // H).to(tl.int64)  # 0 where packed
    o += (b * Sq * H + h) * D
    stats += (b * H + h) * Sq * 2
    s, tile, q_start, Sq, k_start, Sk = sequence(
        tile, b, B, cu_seqlens_q, cu_seqlens_k, Sq, Sk, PACKED, OF_KEYS=False, BLOCK=BLOCK_M
    )
    i = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    there = (i < Sq)[:, None] & (d < D)[None, :]
    q_tile = tl.load(q + b * q_b + h * q_h + (q_start + i)[:, None] * q_s + d[None, :], mask=there, other=0.0)
    k += b * k_b + h * k_h + k_start * k_s
    v += b * v_b + h * v_h + k_start * v_s
    prefix = tl.minimum(tl.load(prefix_lens + s), Sk) if PREFIX else 0
    whole, limit = key_blocks(tile * BLOCK_M, Sq, Sk, prefix, CAUSAL, MASK, BLOCK_M, BLOCK_N)
    m = tl.full((BLOCK_M,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    mask = kv_mask + b * mask_b
    acc, m, total = attend(
        acc, m, total, q_tile, k, v, mask, k_s, v_s, i, 0, whole, Sq, Sk, prefix, scale, D,
        EDGE=False, CAUSAL=CAUSAL, MASK=MASK, BLOCK_N=BLOCK_N, BLOCK_D=BLOCK_D,
    )  # fmt: skip
    acc, m, total = attend(
        acc, m, total, q_tile, k, v, mask, k_s, v_s, i, whole, limit, Sq, Sk, prefix, scale, D,
        EDGE=True, CAUSAL=CAUSAL, MASK=MASK, BLOCK_N=BLOCK_N, BLOCK_D=BLOCK_D,
    )  # fmt: skip
    if CAUSAL:  # rows that have seen no key take all the others too
        blind = tl.sum(((m == LOWEST) & (i < Sq)).to(tl.int32), axis=0) > 0
        end = tl.where(blind, Sk, limit)
        acc, m, total = attend(
            acc, m, total, q_tile, k, v, mask, k_s, v_s, i, limit, end, Sq, Sk, prefix, scale, D,
            EDGE=True, CAUSAL=CAUSAL, MASK=MASK, BLOCK_N=BLOCK_N, BLOCK_D=BLOCK_D,
        )  # fmt: skip
    out = tl.where(total[:, None] == 0.0, 0.0, acc / total[:, None])
    row = q_start + i
    tl.store(o + row[:, None].to(tl.int64) * H * D + d[None, :], narrow(out, o.dtype.element_ty), mask=there)
    tl.store(stats + row * 2, m, mask=i < Sq)
    tl.store(stats + row * 2 + 1, total, mask=i < Sq)


@triton.jit
def attend(
    acc, m, total, q_tile, k, v, mask, k_s, v_s, i, start, end, Sq, Sk, prefix, scale, D: tl.constexpr,
    EDGE: tl.constexpr, CAUSAL: tl.constexpr, MASK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The keys start to end added to each row's softmax: largest score m, sum total, and acc = sum of exp(s - m) v.

    EDGE: a key may be hidden from a row, or not be there.
    """
    dtype: tl.constexpr = k.dtype.element_ty
    d = tl.arange(0, BLOCK_D)[None, :]
    for first in range(start, end, BLOCK_N):
        j = first + tl.arange(0, BLOCK_N)
        there = (j < Sk)[:, None] & (d < D)
        k_tile = tl.load(k + j[:, None] * k_s + d, mask=there, other=0.0)
        s = product(q_tile, tl.trans(k_tile), dtype) * scale
        if EDGE:
            s = hidden(s, i[:, None], j[None, :], mask, Sq, Sk, prefix, CAUSAL, MASK)
        else:
            s = tl.where(s < LOWEST, LOWEST, s)
        most = tl.maximum(m, tl.max(s, axis=1))
        p = tl.exp(s - most[:, None])
        fade = tl.exp(m - most)
        total = total * fade + tl.sum(p, axis=1)
        v_tile = tl.load(v + j[:, None] * v_s + d, mask=there, other=0.0)
        acc = acc * fade[:, None] + product(narrow(p, dtype), v_tile, dtype)
        m = most
    return acc, m, total


@triton.jit
def hidden(s, i, j, mask, Sq, Sk, prefix, CAUSAL: tl.constexpr, MASK: tl.constexpr):
    """The scores of queries i and keys j, with LOWEST where the key is hidden and -inf where there is none."""
    seen = j < Sk
    if CAUSAL:
        p = i + Sk - Sq
        seen = seen & ((j <= p) | ((j < prefix) & (p < prefix)))
    if MASK:
        seen = seen & (tl.load(mask + j, mask=j < Sk, other=0) != 0)
    s = tl.where(seen, s, LOWEST)
    s = tl.where(s < LOWEST, LOWEST, s)
    return tl.where(j < Sk, s, float("-inf"))


@triton.jit
def key_blocks(
    first, Sq, Sk, prefix, CAUSAL: tl.constexpr, MASK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """For queries from `first` on: keys that all of them see, whole blocks; keys that any sees, up to whole blocks."""
    whole, limit = Sk, Sk
    if CAUSAL:
        p = first + Sk - Sq
        last = tl.minimum(first + BLOCK_M, Sq) - 1 + Sk - Sq
        whole = tl.maximum(p + 1, tl.where(last < prefix, prefix, 0))
        limit = tl.maximum(last + 1, tl.where(p < prefix, prefix, 0))
    if MASK:
        whole = 0
    whole = tl.maximum(tl.minimum(whole, Sk), 0) // BLOCK_N * BLOCK_N
    limit = tl.cdiv(tl.maximum(tl.minimum(limit, Sk), 0), BLOCK_N) * BLOCK_N
    return tl.where(first < Sq, whole, 0), tl.where(first < Sq, limit, 0)


@triton.jit
def sequence(
    tile, b, B, cu_seqlens_q, cu_seqlens_k, Sq, Sk, PACKED: tl.constexpr, OF_KEYS: tl.constexpr, BLOCK: tl.constexpr
):
    """The sequence that a tile of queries (OF_KEYS: of keys) belongs to, and the tile within it.

    Returns (sequence, tile, its first query, its number of queries, its first key, its number of keys). Packed rows are
    searched for it: a loop over B bounds spares the host their reading, which would wait for the device. A tile beyond
    the last sequence gets none of its rows. Bounds are held within the rows that there are.
    """
    if PACKED:
        found, within, q_start, num_q, k_start, num_k = 0, tile, 0, 0, 0, 0
        before = 0
        for s in range(0, B):
            q0, q1 = bound(cu_seqlens_q, s, Sq), bound(cu_seqlens_q, s + 1, Sq)
            k0, k1 = bound(cu_seqlens_k, s, Sk), bound(cu_seqlens_k, s + 1, Sk)
            length = tl.maximum(k1 - k0, 0) if OF_KEYS else tl.maximum(q1 - q0, 0)
            after = before + tl.cdiv(length, BLOCK)
            here = (tile >= before) & (tile < after)
            found = tl.where(here, s, found)
            within = tl.where(here, tile - before, within)
            q_start, num_q = tl.where(here, q0, q_start), tl.where(here, tl.maximum(q1 - q0, 0), num_q)
            k_start, num_k = tl.where(here, k0, k_start), tl.where(here, tl.maximum(k1 - k0, 0), num_k)
            before = after
        return found, within, q_start, num_q, k_start, num_k
    else:
        return b, tile, 0, Sq, 0, Sk


@triton.jit
def bound(cu_seqlens, s, rows):
    return tl.minimum(tl.maximum(tl.load(cu_seqlens + s), 0), rows)
