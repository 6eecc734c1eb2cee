"""The losses in Triton: a row a program, read once forward; head and loss fused by chunks of rows, as on CPUs.

Not yet run on hardware: proven by Triton's interpreter, compiled for sm_80 and sm_90 (bench/gpu_static.json).
A label outside of [0, V) makes its loss and its gradient NaN; a check that raises would wait for the device.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lynx_engine.cases import StaticCase
from lynx_engine.contract import Contract
from lynx_engine.cuda import TritonKernel
from lynx_engine.device import narrow, wide


@triton.jit
def losses_of_rows(logits, labels, losses, stats, logits_row, V, ignore_index, smoothing, BLOCK: tl.constexpr):
    """losses [T], and stats [T, 2] for the gradient: a row's largest number and its sum of e^(x - largest)."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    loss, most, total = 0.0, 0.0, 1.0
    if label != ignore_index:
        loss, most, total = softmax_of(logits + row * logits_row, label, V, smoothing, BLOCK)
    tl.store(losses + row, loss)
    tl.store(stats + row * 2, most)
    tl.store(stats + row * 2 + 1, total)


@triton.jit
def gradient_of_rows(
    d_loss, logits, labels, stats, d_logits, logits_row, V, ignore_index, smoothing, scale,
    EACH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """d_logits [T, V] = scale d_loss (softmax(x) - (1 - smoothing) onehot - smoothing / V); EACH row has its d_loss."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    out = d_logits + row * V
    if label == ignore_index:
        clear(out, V, BLOCK)
    else:
        factor = scale * wide(tl.load(d_loss + row)) if EACH else scale * wide(tl.load(d_loss))
        most, total = tl.load(stats + row * 2), tl.load(stats + row * 2 + 1)
        gradient(logits + row * logits_row, out, label, most, total, V, smoothing, factor, BLOCK)


@triton.jit
def in_place_of_rows(
    logits, labels, losses, logits_row, V, ignore_index, smoothing, scale,
    GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """losses [T], and the gradient of scale * loss in the logits' place."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    x = logits + row * logits_row
    if label == ignore_index:
        tl.store(losses + row, 0.0)
        if GRADIENT:
            clear(x, V, BLOCK)
    else:
        loss, most, total = softmax_of(x, label, V, smoothing, BLOCK)
        tl.store(losses + row, loss)
        if GRADIENT:
            tl.debug_barrier()  # the label's logit has been read by every thread before one overwrites it
            gradient(x, x, label, most, total, V, smoothing, scale, BLOCK)


@triton.jit
def softmax_of(x, label, V, smoothing, BLOCK: tl.constexpr):
    """(loss, largest number, sum of e^(x - largest)) of a row; NaN, +inf, or -inf everywhere make the loss NaN."""
    most, total, plain = float("-inf"), 0.0, 0.0
    for first in range(0, V, BLOCK):
        column = first + tl.arange(0, BLOCK)
        values = wide(tl.load(x + column, mask=column < V, other=float("-inf")))
        before = most
        most = tl.maximum(most, tl.max(values, axis=0))
        origin = tl.where(most == float("-inf"), 0.0, most)
        total = total * tl.exp(before - origin) + tl.sum(tl.exp(values - origin), axis=0)
        plain += tl.sum(tl.where(column < V, values, 0.0), axis=0)
    origin = tl.where(most == float("-inf"), 0.0, most)
    known = (label >= 0) & (label < V)
    of_label = wide(tl.load(x + label, mask=known, other=float("nan")))
    log_total = tl.log(total)
    loss = log_total - (of_label - origin)
    if smoothing != 0.0:
        loss = (1.0 - smoothing) * loss + smoothing * (log_total - (plain / V - origin))
    return loss, origin, total


@triton.jit
def gradient(x, out, label, most, total, V, smoothing, factor, BLOCK: tl.constexpr):
    """out [V] = factor (softmax(x) - (1 - smoothing) onehot - smoothing / V); out may be x."""
    factor = tl.where((label >= 0) & (label < V), factor, float("nan"))
    for first in range(0, V, BLOCK):
        column = first + tl.arange(0, BLOCK)
        values = wide(tl.load(x + column, mask=column < V, other=0.0))
        target = tl.where(column == label, 1.0 - smoothing, 0.0)
        values = factor * (tl.exp(values - most) / total - smoothing / V - target)
        tl.store(out + column, narrow(values, out.dtype.element_ty), mask=column < V)


@triton.jit
def clear(out, V, BLOCK: tl.constexpr):
    for first in range(0, V, BLOCK):
        column = first + tl.arange(0, BLOCK)
        tl.store(out + column, tl.zeros((BLOCK,), out.dtype.element_ty), mask=column < V)


def forward(logits: Tensor, labels: Tensor, ignore_index: int, smoothing: float, losses: Tensor, stats: Tensor) -> None:
    _check("cross_entropy", logits, labels)
    T, V = logits.shape
    if T:
        losses_of_rows[(T,)](logits, labels, losses, stats, logits.stride(0), V, ignore_index, smoothing, **_tile(V))


def backward(
    d_loss: Tensor,
    logits: Tensor,
    labels: Tensor,
    stats: Tensor,
    ignore_index: int,
    smoothing: float,
    scale: float,
    d_logits: Tensor,
) -> None:
    _check("cross_entropy_backward", logits, labels)
    T, V = logits.shape
    if T:
        gradient_of_rows[(T,)](
            *(d_loss, logits, labels, stats, d_logits, logits.stride(0), V, ignore_index, smoothing, scale),
            EACH=d_loss.dim() == 1,
            **_tile(V),
        )


def in_place(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int,
    smoothing: float,
    scale: float,
    of_logits: bool,
    losses: Tensor,
) -> None:
    _check("fused_linear_cross_entropy", logits, labels)
    T, V = logits.shape
    if T:
        in_place_of_rows[(T,)](
            *(logits, labels, losses, logits.stride(0), V, ignore_index, smoothing, scale),
            GRADIENT=of_logits,
            **_tile(V),
        )


def _check(op: str, logits: Tensor, labels: Tensor) -> None:
    contract = Contract(op)
    contract.expect("logits", logits, "T V")
    contract.expect("labels", labels, "T")


def _tile(V: int) -> dict[str, int]:
    """4096 numbers at a time, 16 in each of 256 threads; V = 32001 takes eight."""
    block = min(4096, triton.next_power_of_2(max(1, V)))
    return {"BLOCK": block, "num_warps": max(1, block // 512), "enable_fp_fusion": True}


KERNELS = {
    "cross_entropy": TritonKernel(forward),
    "cross_entropy_backward": TritonKernel(backward),
    "fused_linear_cross_entropy": TritonKernel(in_place),
}

_TYPES = {
    **dict.fromkeys(("logits", "d_logits", "d_loss"), "*bf16"),
    **{"labels": "*i64", "losses": "*fp32", "stats": "*fp32", "logits_row": "i32", "V": "i32", "ignore_index": "i32"},
    **{"smoothing": "fp32", "scale": "fp32"},
}


def _static_case(name: str, kernel: triton.JITFunction, arch: int, **constants: bool) -> StaticCase:
    """Logits of V = 32001, whose rows lie 32064 numbers apart."""
    tile = _tile(32001)
    return StaticCase(
        name=f"{name} sm_{arch}",
        kernel=kernel,
        signature={argument: _TYPES[argument] for argument in kernel.arg_names if argument in _TYPES},
        constants={**constants, "BLOCK": tile.pop("BLOCK")},
        divisible_by_16=("logits_row",),
        options=tile,
        sass=("MUFU.EX2",),
        arch=arch,
    )


STATIC_CASES = tuple(
    _static_case(name, kernel, arch, **constants)
    for arch in (80, 90)
    for name, kernel, constants in (
        ("cross_entropy", losses_of_rows, {}),
        ("cross_entropy_backward", gradient_of_rows, {"EACH": False}),
        ("fused_linear_cross_entropy", in_place_of_rows, {"GRADIENT": True}),
    )
)
