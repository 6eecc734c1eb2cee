"""Head and loss chunk by chunk: products by torch, the loss and its gradient in the place of the logits by a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lynx_engine.contract import Contract

from .reference import cross_entropy_backward_reference, cross_entropy_reference, softmax_stats_reference

# Rows of logits that exist at a time: 33 MB in bfloat16 at V = 32001. Each chunk reads the whole weight twice, and
# torch packs it anew: T = 512 in chunks of 256 rows takes 1.09 times as long as in one, of 64 rows 1.5 times (Zen 5).
_CHUNK_ROWS = 512


def fused_native(
    kernel: Callable[..., None],
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    ignore_index: int,
    smoothing: float,
    reduction: str,
    of_hidden: bool,
    of_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """loss, d_hidden, d_weight for d_loss = 1; what is not asked for has no elements."""
    _check_shapes(hidden, weight, labels)
    kept = (labels != ignore_index).nonzero()[:, 0]
    every = len(kept) == len(labels)
    rows = hidden.contiguous() if every else hidden[kept]
    targets = labels.contiguous() if every else labels[kept]
    weight = weight.contiguous()
    scale = _scale(len(kept), reduction)
    losses = torch.empty(len(kept))
    d_rows = torch.empty_like(rows) if of_hidden else rows.new_empty(0)
    d_weight = _WeightGradient(weight, of_weight)
    memory = rows.new_empty(min(_CHUNK_ROWS, len(kept)), len(weight))
    for start in range(0, len(kept), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        logits = torch.mm(rows[part], weight.T, out=memory[: len(rows[part])])
        kernel(logits, targets[part], ignore_index, smoothing, scale, of_hidden or of_weight, losses[part])
        if of_hidden:
            torch.mm(logits, weight, out=d_rows[part])
        d_weight.add(logits, rows[part])
    loss = (losses.sum(dtype=torch.float64) * scale).to(hidden.dtype)
    if not every and of_hidden:
        d_rows = hidden.new_zeros(hidden.shape).index_copy_(0, kept, d_rows)
    return loss, d_rows, d_weight.rounded()


def fused_reference(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    ignore_index: int,
    smoothing: float,
    reduction: str,
    of_hidden: bool,
    of_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same with all logits at once, in float32 or float64."""
    _check_shapes(hidden, weight, labels)
    wide = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
    seen = torch.where((labels != ignore_index)[:, None], hidden.to(wide), 0)
    logits = seen @ weight.to(wide).T
    options: dict[str, Any] = {"ignore_index": ignore_index, "label_smoothing": smoothing}
    loss = cross_entropy_reference(logits, labels, reduction=reduction, **options)
    stats = softmax_stats_reference(logits, labels, ignore_index)
    scale = _scale(int((labels != ignore_index).sum()), reduction)
    d_logits = cross_entropy_backward_reference(
        loss.new_ones(()), logits, labels, stats, ignore_index, smoothing, scale
    )
    return (
        loss.to(hidden.dtype),
        (d_logits @ weight.to(wide)).to(hidden.dtype) if of_hidden else hidden.new_empty(0),
        (d_logits.T @ seen).to(weight.dtype) if of_weight else weight.new_empty(0),
    )


class _WeightGradient:
    """d_logits^T hidden over all chunks; the sum of several is float32, rounded once."""

    def __init__(self, weight: Tensor, wanted: bool) -> None:
        self._weight, self._wanted = weight, wanted
        self._sum: Tensor | None = None

    def add(self, d_logits: Tensor, hidden: Tensor) -> None:
        if not self._wanted:
            return
        product = torch.mm(d_logits.T, hidden)
        self._sum = product if self._sum is None else self._sum.float().add_(product)

    def rounded(self) -> Tensor:
        if not self._wanted:
            return self._weight.new_empty(0)
        return torch.zeros_like(self._weight) if self._sum is None else self._sum.to(self._weight.dtype)


def _scale(kept: int, reduction: str) -> float:
    """1 / rows that count for the mean (NaN without any), else 1."""
    return 1.0 if reduction != "mean" else 1.0 / kept if kept else float("nan")


def _check_shapes(hidden: Tensor, weight: Tensor, labels: Tensor) -> None:
    contract = Contract("fused_linear_cross_entropy")
    contract.expect("hidden", hidden, "T D")
    contract.expect("weight", weight, "V D")
    contract.expect("labels", labels, "T")
