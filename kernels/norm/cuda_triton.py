"""The norms in Triton: whole rows in registers, as many a program as make 4096 numbers.

Not yet run on hardware: proven by Triton's interpreter, compiled for sm_80 and sm_90 (bench/gpu_static.json).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lynx_engine.cases import StaticCase
from lynx_engine.contract import Contract
from lynx_engine.cuda import TritonKernel
from lynx_engine.device import narrow, rounded, wide

MAX_D = 8192
# Rows that a backward program adds up, at least, and such programs at most: four for each of an H100's 132
# multiprocessors. Both say how d_weight is added up, so they depend on T alone: its bits are the same on every GPU.
ROWS_EACH, MOST_PARTS = 16, 528


@triton.jit
def norm_forward(
    x, residual, weight, bias, y, added, x_row, residual_row, eps, T, D,
    ADDS: tl.constexpr, CENTRED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows of y [T, D], and of added [T, D] = x + residual where it ADDS."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < T) & (column < D)
    dtype = y.dtype.element_ty
    values = wide(tl.load(x + row * x_row + column, mask=inside, other=0.0))
    if ADDS:
        values += wide(tl.load(residual + row * residual_row + column, mask=inside, other=0.0))
        tl.store(added + row * D + column, narrow(values, dtype), mask=inside)
        values = rounded(values, dtype)  # as if it had been stored and read again
    w = wide(tl.load(weight + column, mask=column < D, other=0.0))
    if CENTRED:
        values = tl.where(inside, values - tl.sum(values, axis=1)[:, None] / D, 0.0)
    unit = values * tl.rsqrt(tl.sum(values * values, axis=1)[:, None] / D + eps)
    plus = wide(tl.load(bias + column, mask=column < D, other=0.0)) if CENTRED else 0.0
    out = unit * w + plus if CENTRED else rounded(unit, dtype) * w
    tl.store(y + row * D + column, narrow(out, dtype), mask=inside)


@triton.jit
def norm_backward(
    dy, d_sum, x, weight, dx, weight_parts, bias_parts, dy_row, d_sum_row, x_row, eps, T, D, rows_each,
    ADDS: tl.constexpr, CENTRED: tl.constexpr, OF_WEIGHTS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dx of `rows_each` rows, and their sums of dy * unit and of dy, float32 [D]: backward.h has the formulas."""
    part = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)[None, :]
    w = wide(tl.load(weight + column, mask=column < D, other=0.0))
    d_weight = tl.zeros((ROWS, BLOCK), tl.float32)
    d_bias = tl.zeros((ROWS, BLOCK), tl.float32)
    end = tl.minimum((part + 1) * rows_each, T)
    for first in range(part * rows_each, end, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        inside = (row < end) & (column < D)
        values = wide(tl.load(x + row * x_row + column, mask=inside, other=0.0))
        d_out = wide(tl.load(dy + row * dy_row + column, mask=inside, other=0.0))
        if CENTRED:
            values = tl.where(inside, values - tl.sum(values, axis=1)[:, None] / D, 0.0)
        rstd = tl.rsqrt(tl.sum(values * values, axis=1)[:, None] / D + eps)
        unit = values * rstd
        if OF_WEIGHTS:
            d_weight += d_out * unit
            d_bias += d_out
        g = d_out * w
        slope = tl.sum(g * unit, axis=1)[:, None] / D
        if CENTRED:  # an infinite g makes the whole gradient NaN, as the reference does: through 0 * slope
            g -= tl.sum(g, axis=1)[:, None] / D + 0.0 * slope
        d_in = rstd * (g - unit * slope)
        if ADDS:
            d_in += wide(tl.load(d_sum + row * d_sum_row + column, mask=inside, other=0.0))
        tl.store(dx + row * D + column, narrow(d_in, dx.dtype.element_ty), mask=inside)
    if OF_WEIGHTS:
        there = column < D
        tl.store(weight_parts + part * D + column, tl.sum(d_weight, axis=0)[None, :], mask=there)
        if CENTRED:
            tl.store(bias_parts + part * D + column, tl.sum(d_bias, axis=0)[None, :], mask=there)


@triton.jit
def add_parts(parts, out, num_parts, D, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """out [D] = the sum of parts [num_parts, D], in the order of the parts."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < D
    sums = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(0, num_parts, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        there = (row < num_parts) & inside[None, :]
        sums += tl.load(parts + row.to(tl.int64) * D + column[None, :], mask=there, other=0.0)
    tl.store(out + column, narrow(tl.sum(sums, axis=0), out.dtype.element_ty), mask=inside)


def forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    y: Tensor,
    added: Tensor | None,
    *,
    name: str,
) -> None:
    _check(name, x=x, residual=residual, weight=weight, bias=bias)
    D = x.shape[-1]
    rows, residual_rows = _rows(x), x if residual is None else _rows(residual)
    if x.numel() == 0:
        return
    norm_forward[(triton.cdiv(len(rows), _tile(D)["ROWS"]),)](
        *(rows, residual_rows, weight, weight if bias is None else bias, y, y if added is None else added),
        *(rows.stride(0), residual_rows.stride(0), eps, len(rows), D),
        ADDS=residual is not None,
        CENTRED=bias is not None,
        **_tile(D),
    )


def backward(
    dy: Tensor,
    d_sum: Tensor | None,
    x: Tensor,
    weight: Tensor,
    eps: float,
    dx: Tensor,
    d_weight: Tensor | None,
    d_bias: Tensor | None,
    *,
    name: str,
) -> None:
    _check(f"{name}_backward", x=x, dy=dy, d_sum=d_sum, weight=weight)
    D, centred, of_weights = x.shape[-1], name.endswith("layer_norm"), d_weight is not None
    T = x.numel() // D if D else 0
    rows_each = max(ROWS_EACH, triton.cdiv(T, MOST_PARTS))
    num_parts = triton.cdiv(T, rows_each)
    parts = torch.empty(2 if of_weights and centred else 1, num_parts if of_weights else 0, D, device=x.device)
    if T:
        dy, x = _rows(dy), _rows(x)
        d_sum_rows = dy if d_sum is None else _rows(d_sum)
        norm_backward[(num_parts,)](
            *(dy, d_sum_rows, x, weight, dx, parts[0], parts[-1]),
            *(dy.stride(0), d_sum_rows.stride(0), x.stride(0), eps, T, D, rows_each),
            ADDS=d_sum is not None,
            CENTRED=centred,
            OF_WEIGHTS=of_weights,
            **_tile(D),
        )
    for part, out in zip(parts, (d_weight, d_bias), strict=False):
        if out is not None and out.numel():
            add_parts[(triton.cdiv(D, _ADD_TILE["BLOCK"]),)](part, out, num_parts, D, **_ADD_TILE)


def _check(op: str, *, x: Tensor, weight: Tensor, **others: Tensor | None) -> None:
    contract = Contract(op)
    contract.expect("x", _rows(x), "T D")
    contract.expect("weight", weight, "D")
    for name, tensor in others.items():
        if tensor is not None:
            contract.expect(name, tensor if name == "bias" else _rows(tensor), "D" if name == "bias" else "T D")


def _rows(x: Tensor) -> Tensor:
    """[..., D] as `as_rows` of lynx_engine/contract.py leaves it, as a view [T, D]."""
    return x.view(-1, x.shape[-1]) if x.numel() else x.new_empty(0, x.shape[-1])


def _tile(D: int) -> dict[str, int]:
    """Sixteen numbers a thread: two loads of 16 bytes in half precision. Only D decides, so bits do not depend on T."""
    block = triton.next_power_of_2(D)
    rows = min(ROWS_EACH, max(1, 4096 // block))
    return {"ROWS": rows, "BLOCK": block, "num_warps": min(16, max(1, rows * block // 512)), "enable_fp_fusion": True}


_ADD_TILE = {"ROWS": 32, "BLOCK": 64, "num_warps": 4, "enable_fp_fusion": True}


def _width_refusals(x: Tensor, *_: Any) -> Sequence[str]:
    """A row lives in registers: 8192 numbers are 16 in each of 512 threads."""
    D = x.shape[-1] if x.dim() else 0
    return () if D <= MAX_D else (f"needs D <= {MAX_D} (got {D})",)


NAMES = ("rms_norm", "layer_norm", "add_rms_norm", "add_layer_norm")
KERNELS = {
    **{name: TritonKernel(functools.partial(forward, name=name), _width_refusals) for name in NAMES},
    **{f"{name}_backward": TritonKernel(functools.partial(backward, name=name), _width_refusals) for name in NAMES},
}


def _static_cases(name: str, D: int, arch: int) -> tuple[StaticCase, ...]:
    """A norm's kernels as Lynx trains with them in bfloat16: rows of D, weights with gradients."""
    adds, centred = name.startswith("add_"), name.endswith("layer_norm")
    tile = _tile(D)
    options = {name: tile.pop(name) for name in ("num_warps", "enable_fp_fusion")}
    constants = {"ADDS": adds, "CENTRED": centred, **tile}
    half = dict.fromkeys(("x", "residual", "weight", "bias", "y", "added", "dy", "d_sum", "dx"), "*bf16")
    whole = dict.fromkeys(("x_row", "residual_row", "dy_row", "d_sum_row", "T", "D", "rows_each"), "i32")
    signature = half | whole | {"eps": "fp32", "weight_parts": "*fp32", "bias_parts": "*fp32"}
    divisible = ("x_row", "residual_row", "dy_row", "d_sum_row", "D")
    return tuple(
        StaticCase(
            name=f"{label} D={D} sm_{arch}",
            kernel=kernel,
            signature={key: signature[key] for key in kernel.arg_names if key in signature},
            constants=constants | more,
            divisible_by_16=tuple(key for key in divisible if key in kernel.arg_names),
            options=options,
            sass=("LDG.128", "STG.128"),
            arch=arch,
        )
        for label, kernel, more in (
            (name, norm_forward, {}),
            (f"{name}_backward", norm_backward, {"OF_WEIGHTS": True}),
        )
    )


STATIC_CASES = (
    *(case for arch in (80, 90) for case in _static_cases("rms_norm", 4096, arch)),
    *(case for arch in (80, 90) for case in _static_cases("layer_norm", 1408, arch)),
    *(case for arch in (80, 90) for case in _static_cases("add_rms_norm", MAX_D, arch)),
    *(
        StaticCase(
            name=f"add_parts sm_{arch}",
            kernel=add_parts,
            signature={"parts": "*fp32", "out": "*bf16", "num_parts": "i32", "D": "i32"},
            constants={name: _ADD_TILE[name] for name in ("ROWS", "BLOCK")},
            divisible_by_16=("D",),
            options={name: _ADD_TILE[name] for name in ("num_warps", "enable_fp_fusion")},
            sass=("LDG.128",),
            arch=arch,
        )
        for arch in (80, 90)
    ),
)
