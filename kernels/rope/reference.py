"""The truth of rope in plain torch, in the dtype of its inputs, each product and the sum rounded."""

from __future__ import annotations

import torch
from torch import Tensor


def rope_reference(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """x * cos + rotate_half(x) * sin for q and k [B, S, H, D]; cos and sin [B or 1, S, D]."""
    return _rotated(q, cos, sin), _rotated(k, cos, sin)


def rope_backward_reference(dq: Tensor, dk: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of q and k: the rotation by the opposite angle, with the halves of the table exchanged."""
    first, second = sin.chunk(2, dim=-1)
    return rope_reference(dq, dk, cos, torch.cat((-second, -first), dim=-1))


def rope_append_kv_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    starts: Tensor | None = None,
    slots: Tensor | None = None,
) -> Tensor:
    """q rotated; k rotated and v written into the caches."""
    q, k = rope_reference(q, k, cos, sin)
    if slots is not None:
        used = slots >= 0
        k_cache[slots[used]] = k[used]
        v_cache[slots[used]] = v[used]
    elif starts is not None:
        rows = torch.arange(q.shape[0], device=q.device)[:, None]
        positions = starts[:, None] + torch.arange(q.shape[1], device=q.device)
        k_cache[rows, positions] = k
        v_cache[rows, positions] = v
    return q


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return (x * cos[:, :, None] + torch.cat((-second, first), dim=-1) * sin[:, :, None]).to(x.dtype)
