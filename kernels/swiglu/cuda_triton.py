"""swiglu in Triton: a tile of rows and columns a program; every number is read once and written once.

Not yet run on hardware: proven by Triton's interpreter, compiled for sm_80 and sm_90 (bench/gpu_static.json).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lynx_engine.cases import StaticCase
from lynx_engine.contract import Contract
from lynx_engine.cuda import TritonKernel
from lynx_engine.device import narrow, wide

TILE = 2048  # numbers of a program: 16 in each of 128 threads, two loads of 16 bytes in half precision


@triton.jit
def swiglu_forward(gate, up, y, gate_row, up_row, T, N, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """y [T, N] = silu(gate) * up."""
    row, column, inside = place(T, N, ROWS, BLOCK)
    g = wide(tl.load(gate + row * gate_row + column, mask=inside, other=0.0))
    u = wide(tl.load(up + row * up_row + column, mask=inside, other=0.0))
    tl.store(y + row * N + column, narrow(g / (1.0 + tl.exp(-g)) * u, y.dtype.element_ty), mask=inside)


@triton.jit
def swiglu_backward(
    dy, gate, up, d_gate, d_up, dy_row, gate_row, up_row, T, N, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """d_gate = dy up s (1 + gate (1 - s)), d_up = dy silu(gate), s = 1 / (1 + e^-gate); both [T, N]."""
    row, column, inside = place(T, N, ROWS, BLOCK)
    d = wide(tl.load(dy + row * dy_row + column, mask=inside, other=0.0))
    g = wide(tl.load(gate + row * gate_row + column, mask=inside, other=0.0))
    u = wide(tl.load(up + row * up_row + column, mask=inside, other=0.0))
    s = 1.0 / (1.0 + tl.exp(-g))
    dtype = d_gate.dtype.element_ty
    tl.store(d_gate + row * N + column, narrow(d * u * s * (1.0 + g * (1.0 - s)), dtype), mask=inside)
    tl.store(d_up + row * N + column, narrow(d * (g / (1.0 + tl.exp(-g))), dtype), mask=inside)


@triton.jit
def place(T, N, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """This program's rows [ROWS, 1] and columns [1, BLOCK], and which of them there are."""
    blocks = tl.cdiv(N, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)[None, :]
    return row, column, (row < T) & (column < N)


def forward(gate: Tensor, up: Tensor, y: Tensor) -> None:
    if y.numel() == 0:
        return
    gate, up = _rows(gate), _rows(up)
    T, N = gate.shape
    swiglu_forward[_grid(T, N)](gate, up, y, gate.stride(0), up.stride(0), T, N, **_tile(N))


def backward(dy: Tensor, gate: Tensor, up: Tensor, d_gate: Tensor, d_up: Tensor) -> None:
    if d_gate.numel() == 0:
        return
    dy, gate, up = (_rows(t) for t in (dy, gate, up))
    contract = Contract("swiglu_backward")
    for name, tensor in (("gate", gate), ("up", up), ("dy", dy)):
        contract.expect(name, tensor, "T N")
    T, N = gate.shape
    strides = dy.stride(0), gate.stride(0), up.stride(0)
    swiglu_backward[_grid(T, N)](dy, gate, up, d_gate, d_up, *strides, T, N, **_tile(N))


def _rows(x: Tensor) -> Tensor:
    """[..., N] as `as_rows` of lynx_engine/contract.py leaves it, as a view [T, N]."""
    return x.view(-1, x.shape[-1]) if x.dim() != 2 else x


def _tile(N: int) -> dict[str, int]:
    block = min(TILE, triton.next_power_of_2(N))
    return {"ROWS": TILE // block, "BLOCK": block, **_OPTIONS}


_OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


def _grid(T: int, N: int) -> tuple[int]:
    tile = _tile(N)
    return (triton.cdiv(T, tile["ROWS"]) * triton.cdiv(N, tile["BLOCK"]),)


KERNELS = {"swiglu": TritonKernel(forward), "swiglu_backward": TritonKernel(backward)}

STATIC_CASES = tuple(
    StaticCase(
        name=f"{name} sm_{arch}",
        kernel=kernel,
        signature=dict.fromkeys(pointers, "*bf16") | dict.fromkeys((*strides, "T", "N"), "i32"),
        constants={"ROWS": 1, "BLOCK": TILE},
        divisible_by_16=(*strides, "N"),
        options=_OPTIONS,
        sass=("LDG.128", "STG.128", "MUFU"),
        arch=arch,
    )
    for arch in (80, 90)
    for name, kernel, pointers, strides in (
        ("swiglu", swiglu_forward, ("gate", "up", "y"), ("gate_row", "up_row")),
        (
            "swiglu_backward",
            swiglu_backward,
            ("dy", "gate", "up", "d_gate", "d_up"),
            ("dy_row", "gate_row", "up_row"),
        ),
    )
)
