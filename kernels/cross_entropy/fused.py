"""Head and loss chunk by chunk: products by `linear`, the loss and its gradient in the logits' place by a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lynx_engine.contract import Contract

from .reference import cross_entropy_backward_reference, cross_entropy_reference, softmax_stats_reference

# Rows of logits that exist at a time, 33 MB in bfloat16 at V = 32001, and that `linear` computes in one pass over the
# weight.
_CHUNK_ROWS = 512


def fused_native(
    kernel: Callable[..., None],
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    out_features: int,
    ignore_index: int,
    smoothing: float,
    reduction: str,
    of_hidden: bool,
    of_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """loss, d_hidden, d_weight for d_loss = 1; what is not asked for has no elements."""
    check_shapes(hidden, weight, labels)
    kept = (labels != ignore_index).nonzero()[:, 0]
    every = len(kept) == len(labels)
    rows = hidden.contiguous() if every else hidden[kept]
    targets = labels.contiguous() if every else labels[kept]
    scale = _scale(len(kept), reduction)
    losses = torch.empty(len(kept), device=hidden.device)
    d_rows = torch.empty_like(rows) if of_hidden else rows.new_empty(0)
    d_weight = _WeightGradient(weight, of_weight)
    for start in range(0, len(kept), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        logits = _product(rows[part], weight, out_features)
        kernel(logits, targets[part], ignore_index, smoothing, scale, of_hidden or of_weight, losses[part])
        if of_hidden:
            d_rows[part] = _input_gradient(logits, weight, hidden.shape[1])
        d_weight.add(logits, rows[part])
    loss = (losses.sum(dtype=torch.float64) * scale).to(hidden.dtype)
    if not every and of_hidden:
        d_rows = hidden.new_zeros(hidden.shape).index_copy_(0, kept, d_rows)
    return loss, d_rows, d_weight.rounded()


def fused_reference(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    out_features: int,
    ignore_index: int,
    smoothing: float,
    reduction: str,
    of_hidden: bool,
    of_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same with all logits at once, in float32 or float64; a packed weight is `linear`'s to read."""
    check_shapes(hidden, weight, labels)
    wide = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
    seen = torch.where((labels != ignore_index)[:, None], hidden.to(wide), 0)
    packed = weight.dim() != 2
    logits = _product(seen.to(weight.dtype), weight, out_features).to(wide) if packed else seen @ weight.to(wide).T
    options: dict[str, Any] = {"ignore_index": ignore_index, "label_smoothing": smoothing}
    loss = cross_entropy_reference(logits, labels, reduction=reduction, **options)
    stats = softmax_stats_reference(logits, labels, ignore_index)
    scale = _scale(int((labels != ignore_index).sum()), reduction)
    d_logits = cross_entropy_backward_reference(
        loss.new_ones(()), logits, labels, stats, ignore_index, smoothing, scale
    )
    d_hidden = hidden.new_empty(0)
    if of_hidden and packed:
        d_hidden = _input_gradient(d_logits.to(weight.dtype), weight, hidden.shape[1])
    elif of_hidden:
        d_hidden = (d_logits @ weight.to(wide)).to(hidden.dtype)
    return (
        loss.to(hidden.dtype),
        d_hidden,
        (d_logits.T @ seen).to(weight.dtype) if of_weight else weight.new_empty(0),
    )


def _product(x: Tensor, weight: Tensor, out_features: int) -> Tensor:
    """x weight^T by the op `linear`, called by its name: ops do not import each other."""
    options = (None, None, None, None, out_features, "none", 1.0, 0.0, "auto")
    product: Tensor = torch.ops.lynx.linear.default(x, weight, *options)
    return product


def _input_gradient(dy: Tensor, weight: Tensor, in_features: int) -> Tensor:
    gradient: Tensor = torch.ops.lynx.linear_backward_input.default(dy, weight, in_features, "auto")
    return gradient


class _WeightGradient:
    """d_logits^T hidden over all chunks; the sum of several is float32, rounded once."""

    def __init__(self, weight: Tensor, wanted: bool) -> None:
        self._weight, self._wanted = weight, wanted
        self._sum: Tensor | None = None

    def add(self, d_logits: Tensor, hidden: Tensor) -> None:
        if not self._wanted:
            return
        product = torch.ops.lynx.linear_backward_weight.default(d_logits, hidden, "auto")
        self._sum = product if self._sum is None else self._sum.float().add_(product)

    def rounded(self) -> Tensor:
        if not self._wanted:
            return self._weight.new_empty(0)
        return torch.zeros_like(self._weight) if self._sum is None else self._sum.to(self._weight.dtype)


def _scale(kept: int, reduction: str) -> float:
    """1 / rows that count for the mean (NaN without any), else 1."""
    return 1.0 if reduction != "mean" else 1.0 / kept if kept else float("nan")


def check_shapes(hidden: Tensor, weight: Tensor, labels: Tensor) -> None:
    """A packed weight's shape is for `linear` to check."""
    contract = Contract("fused_linear_cross_entropy")
    contract.expect("hidden", hidden, "T D")
    contract.expect("labels", labels, "T")
    if weight.dim() == 2:
        contract.expect("weight", weight, "V D")
