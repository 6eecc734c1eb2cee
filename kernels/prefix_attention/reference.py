"""The truth of prefix_attention: the authors' attention written out in plain torch.

Shapes: q [B, Sq, H, D], k and v [B, Sk, H, D]; stats [B, H, Sq, 2] are of each row of scores the maximum m and
l = sum exp(score - m), from which backward rebuilds the probabilities: P = exp(score - m) / l.
Half types are computed in float32 and cast back at the end; float64 stays float64.
"""

import torch
from torch import Tensor


def visible_keys(
    num_queries: int,
    num_keys: int,
    *,
    prefix_lens: Tensor | None = None,
    causal: bool = True,
    kv_mask: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Which keys each query may attend to: bool [1 or B, Sq, Sk].

    Query i stands at position p = i + Sk - Sq (the last query sees the last key). Key j is visible to it when
    kv_mask[b, j] holds and either causal is False, or j <= p, or both p and j lie inside the first prefix_lens[b]
    positions (the bidirectional prefix of a PrefixLM).
    """
    j_K = torch.arange(num_keys, device=device)
    p_Q1 = torch.arange(num_queries, device=device)[:, None] + (num_keys - num_queries)
    visible = (j_K <= p_Q1)[None] if causal else torch.ones(1, num_queries, num_keys, dtype=torch.bool, device=device)
    if causal and prefix_lens is not None:
        length_B11 = prefix_lens[:, None, None]
        visible = visible | ((j_K < length_B11) & (p_Q1 < length_B11))
    if kv_mask is not None:
        visible = visible & (kv_mask != 0)[:, None, :]
    return visible


def prefix_attention_stats_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    prefix_lens: Tensor | None = None,
    causal: bool = True,
    kv_mask: Tensor | None = None,
    softmax_scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """o = softmax(mask(q k^T * softmax_scale)) v, and the statistics of the masked scores.

    A hidden score is the most negative finite number, not -inf: a row that sees no key at all therefore attends
    uniformly over all Sk keys, as the authors' additive finfo.min masks do. No gradient passes a hidden score.

    Returns (o [B, Sq, H, D] in q's dtype, stats [B, H, Sq, 2] in float32 or float64).
    """
    q_BHQD, k_BHKD, v_BHKD = (_heads_first(x) for x in (q, k, v))
    visible = visible_keys(
        q.shape[1], k.shape[1], prefix_lens=prefix_lens, causal=causal, kv_mask=kv_mask, device=q.device
    )
    scores, _ = _masked_scores(q_BHQD, k_BHKD, visible, softmax_scale)
    lowest = torch.finfo(scores.dtype).min
    o = scores.softmax(dim=-1) @ v_BHKD
    row_max = torch.nn.functional.pad(scores, (0, 1), value=lowest).amax(dim=-1)
    row_sum = (scores - row_max[..., None]).exp().sum(dim=-1)
    return o.transpose(1, 2).to(q.dtype), torch.stack((row_max, row_sum), dim=-1)


def _heads_first(x: Tensor) -> Tensor:
    """[B, S, H, D] to [B, H, S, D] in float32 or float64."""
    return x.transpose(1, 2).to(torch.float64 if x.dtype == torch.float64 else torch.float32)


def _masked_scores(
    q_BHQD: Tensor, k_BHKD: Tensor, visible: Tensor, softmax_scale: float | None
) -> tuple[Tensor, Tensor]:
    """The scores [B, H, Sq, Sk], the lowest finite number where hidden or less than that, and which of them are so."""
    scale = q_BHQD.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    scores = q_BHQD @ k_BHKD.transpose(-1, -2) * scale
    lowest = torch.finfo(scores.dtype).min
    replaced = ~visible[:, None] | (scores < lowest)
    return scores.masked_fill(replaced, lowest), replaced


def prefix_attention_backward_reference(
    d_o: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    prefix_lens: Tensor | None = None,
    causal: bool = True,
    kv_mask: Tensor | None = None,
    softmax_scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, given that of o, written out. S is the scores, P their softmax over keys:

    d_v = P^T d_o, d_P = d_o v^T, d_S = P (d_P - sum_j P d_P) and 0 where hidden,
    d_q = scale d_S k, d_k = scale d_S^T q.

    Not by autograd: the op's backward is itself a torch op, and below a dispatch mode (FlopCounterMode, for one) there
    is no autograd to ask.
    """
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    d_o_BHQD, q_BHQD, k_BHKD, v_BHKD = (_heads_first(x) for x in (d_o, q, k, v))
    visible = visible_keys(
        q.shape[1], k.shape[1], prefix_lens=prefix_lens, causal=causal, kv_mask=kv_mask, device=q.device
    )
    scores, replaced = _masked_scores(q_BHQD, k_BHKD, visible, softmax_scale)
    p = scores.softmax(dim=-1)
    d_p = d_o_BHQD @ v_BHKD.transpose(-1, -2)
    d_s = (p * (d_p - (p * d_p).sum(dim=-1, keepdim=True))).masked_fill(replaced, 0.0)
    gradients = (d_s @ k_BHKD * scale, d_s.transpose(-1, -2) @ q_BHQD * scale, p.transpose(-1, -2) @ d_o_BHQD)
    d_q, d_k, d_v = (g.transpose(1, 2).to(q.dtype) for g in gradients)
    return d_q, d_k, d_v


def prefix_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    prefix_lens: Tensor | None = None,
    causal: bool = True,
    kv_mask: Tensor | None = None,
    softmax_scale: float | None = None,
) -> Tensor:
    """o of `prefix_attention_stats_reference`: [B, Sq, H, D] in q's dtype."""
    return prefix_attention_stats_reference(
        q, k, v, prefix_lens=prefix_lens, causal=causal, kv_mask=kv_mask, softmax_scale=softmax_scale
    )[0]


def prefix_attention_varlen_stats_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    prefix_lens: Tensor | None = None,
    causal: bool = True,
    softmax_scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The dense reference on each packed sequence alone.

    q [Tq, H, D], k and v [Tk, H, D]; sequence b owns rows cu_seqlens[b] to cu_seqlens[b + 1], cu_seqlens int [B + 1].
    Returns (o [Tq, H, D], stats [H, Tq, 2]).
    """
    outputs = [q[:0]]
    stats = [q.new_empty(q.shape[1], 0, 2, dtype=torch.promote_types(q.dtype, torch.float32))]
    bounds_q, bounds_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    for b in range(len(bounds_q) - 1):
        rows_q, rows_k = slice(bounds_q[b], bounds_q[b + 1]), slice(bounds_k[b], bounds_k[b + 1])
        o, sequence_stats = prefix_attention_stats_reference(
            q[None, rows_q],
            k[None, rows_k],
            v[None, rows_k],
            prefix_lens=None if prefix_lens is None else prefix_lens[b : b + 1],
            causal=causal,
            softmax_scale=softmax_scale,
        )
        outputs.append(o[0])
        stats.append(sequence_stats[0])
    return torch.cat(outputs), torch.cat(stats, dim=1)


def prefix_attention_varlen_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    prefix_lens: Tensor | None = None,
    causal: bool = True,
    softmax_scale: float | None = None,
) -> Tensor:
    """o of `prefix_attention_varlen_stats_reference`: [Tq, H, D] in q's dtype."""
    return prefix_attention_varlen_stats_reference(
        q, k, v, cu_seqlens_q, cu_seqlens_k, prefix_lens=prefix_lens, causal=causal, softmax_scale=softmax_scale
    )[0]


def prefix_attention_varlen_backward_reference(
    d_o: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    prefix_lens: Tensor | None = None,
    causal: bool = True,
    softmax_scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`prefix_attention_backward_reference` on each packed sequence alone."""
    d_q, d_k, d_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    bounds_q, bounds_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    for b in range(len(bounds_q) - 1):
        rows_q, rows_k = slice(bounds_q[b], bounds_q[b + 1]), slice(bounds_k[b], bounds_k[b + 1])
        gradients = prefix_attention_backward_reference(
            d_o[None, rows_q],
            q[None, rows_q],
            k[None, rows_k],
            v[None, rows_k],
            prefix_lens=None if prefix_lens is None else prefix_lens[b : b + 1],
            causal=causal,
            softmax_scale=softmax_scale,
        )
        for rows, gradient in zip((d_q[rows_q], d_k[rows_k], d_v[rows_k]), gradients, strict=True):
            rows.copy_(gradient[0])
    return d_q, d_k, d_v


def paged_attention_reference(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    seq_lens: Tensor,
    *,
    softmax_scale: float | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
) -> Tensor:
    """Each token's attention on the gathered rows of its sequence; a scale multiplies its row's score or weight.

    q [B, H, D], caches [num_blocks, block_size, H_kv, D], scales [num_blocks, block_size, H_kv],
    block_table [B, max_blocks], seq_lens [B] -> o [B, H, D] in q's dtype.
    """
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    o = torch.zeros_like(q)
    for b, length in enumerate(seq_lens.tolist()):
        k_JHD, v_JHD, k_scale_JH, v_scale_JH = (
            None if x is None else gather_paged(x, block_table[b], length, q.shape[1]).to(wide)
            for x in (k_cache, v_cache, k_scale, v_scale)
        )
        assert k_JHD is not None and v_JHD is not None
        scores_HJ = torch.einsum("hd,jhd->hj", q[b].to(wide), k_JHD)
        if k_scale_JH is not None:
            scores_HJ = scores_HJ * k_scale_JH.T
        scores_HJ = scores_HJ * scale
        lowest = torch.finfo(wide).min
        p_HJ = scores_HJ.masked_fill(scores_HJ < lowest, lowest).softmax(dim=-1)
        if v_scale_JH is not None:
            p_HJ = p_HJ * v_scale_JH.T
        o[b] = torch.einsum("hj,jhd->hd", p_HJ, v_JHD).to(q.dtype)
    return o


def gather_paged(cache: Tensor, blocks: Tensor, length: int, num_heads: int) -> Tensor:
    """[num_blocks, block_size, H_kv, ...] -> one sequence's rows for each query head, [length, num_heads, ...]."""
    j, block_size = torch.arange(length, device=cache.device), max(1, cache.shape[1])
    rows = cache[blocks[j // block_size].long(), j % block_size]
    return rows.repeat_interleave(num_heads // max(1, cache.shape[2]), dim=1)
