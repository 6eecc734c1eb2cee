"""The truth of the losses in plain torch: float32 (float64 where a tensor is), rounded once at the end."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy_reference(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """torch's cross entropy, but that what stands in an ignored row is not looked at."""
    wide = _seen(logits, labels, ignore_index)
    return F.cross_entropy(
        wide, labels, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction
    ).to(logits.dtype)


def softmax_stats_reference(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """What the backward pass keeps of the forward: a row's largest number and its sum of e^(x - largest), [T, 2]."""
    seen = _seen(logits, labels, ignore_index)
    most = seen.amax(-1, keepdim=True)
    most = most.masked_fill(most == float("-inf"), 0)
    return torch.cat((most, (seen - most).exp().sum(-1, keepdim=True)), dim=1)


def cross_entropy_backward_reference(
    d_loss: Tensor,
    logits: Tensor,
    labels: Tensor,
    stats: Tensor,
    ignore_index: int,
    label_smoothing: float,
    scale: float,
) -> Tensor:
    """The gradient of logits, written out: below a dispatch mode there is no autograd to ask."""
    kept = labels != ignore_index
    probabilities = (_seen(logits, labels, ignore_index) - stats[:, :1]).exp() / stats[:, 1:]
    target = torch.zeros_like(probabilities).scatter_(1, labels.where(kept, 0)[:, None], 1 - label_smoothing)
    gradient = (scale * d_loss.to(stats.dtype)).expand(len(labels))[:, None] * (
        probabilities - target - label_smoothing / logits.shape[1]
    )
    return gradient.masked_fill(~kept[:, None], 0).to(logits.dtype)


def fused_linear_cross_entropy_reference(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """cross_entropy(hidden weight^T, labels)."""
    wide = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
    kept = (labels != ignore_index)[:, None]
    logits = torch.where(kept, hidden.to(wide), 0) @ weight.to(wide).T
    return cross_entropy_reference(
        logits, labels, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction
    ).to(hidden.dtype)


def _seen(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.where((labels != ignore_index)[:, None], wide, 0)
