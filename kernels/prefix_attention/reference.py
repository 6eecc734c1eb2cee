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
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    q_BHQD, k_BHKD, v_BHKD = (x.transpose(1, 2).to(dtype) for x in (q, k, v))
    scores = q_BHQD @ k_BHKD.transpose(-1, -2) * scale
    visible = visible_keys(
        q.shape[1], k.shape[1], prefix_lens=prefix_lens, causal=causal, kv_mask=kv_mask, device=q.device
    )
    lowest = torch.finfo(dtype).min
    scores = scores.masked_fill(~visible[:, None], lowest).maximum(scores.new_tensor(lowest))
    o = scores.softmax(dim=-1) @ v_BHKD
    row_max = torch.nn.functional.pad(scores, (0, 1), value=lowest).amax(dim=-1)
    row_sum = (scores - row_max[..., None]).exp().sum(dim=-1)
    return o.transpose(1, 2).to(q.dtype), torch.stack((row_max, row_sum), dim=-1)


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
