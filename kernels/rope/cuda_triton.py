"""rope in Triton: a token and up to 16 of its heads a program, the token's angles in registers.

Not yet run on hardware: proven by Triton's interpreter, compiled for sm_80 and sm_90 (bench/gpu_static.json).
A token whose place lies outside of the cache is not written; a check that raises would wait for the device.
"""

from __future__ import annotations

import functools

import triton
import triton.language as tl
from torch import Tensor

from lynx_engine.cases import StaticCase
from lynx_engine.cuda import TritonKernel
from lynx_engine.device import narrow, rounded, wide

from .op import check_append, check_shapes

HEADS = 16  # of 64 pairs in Lynx: 8 pairs in each of 128 threads
# Every product is rounded before the sum, as in the plain stack; a fused multiply-add would leave one rounding out.
EXACT = {"enable_fp_fusion": False}


@triton.jit
def rope_both(
    q, k, cos, sin, q_out, k_out, q_b, q_s, q_h, k_b, k_s, k_h, q_out_b, q_out_s, q_out_h, k_out_b, k_out_s, k_out_h,
    table_b, S, Hq, Hk, HALF, INVERSE: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """q and k of one token turned by its angles; an output may be its input. INVERSE: the gradients' way."""
    b, s = tl.program_id(0).to(tl.int64) // S, tl.program_id(0).to(tl.int64) % S
    c1, c2, s1, s2 = angles(cos, sin, b * table_b + s * 2 * HALF, HALF, INVERSE, BLOCK)
    turn(q + b * q_b + s * q_s, q_out + b * q_out_b + s * q_out_s, q_h, q_out_h, Hq, c1, c2, s1, s2, HALF, HEADS, BLOCK)
    turn(k + b * k_b + s * k_s, k_out + b * k_out_b + s * k_out_s, k_h, k_out_h, Hk, c1, c2, s1, s2, HALF, HEADS, BLOCK)


@triton.jit
def rope_into_cache(
    q, k, v, cos, sin, k_cache, v_cache, places, q_out, q_b, q_s, q_h, k_b, k_s, k_h, v_b, v_s, v_h,
    k_cache_b, k_cache_s, k_cache_h, v_cache_b, v_cache_s, v_cache_h, table_b, S, Hq, Hk, HALF, num_places,
    PAGED: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """q of one token turned; k turned, and v, to the token's place in a cache: starts[b] + s, or PAGED slots[b, s]."""
    b, s = tl.program_id(0).to(tl.int64) // S, tl.program_id(0).to(tl.int64) % S
    c1, c2, s1, s2 = angles(cos, sin, b * table_b + s * 2 * HALF, HALF, False, BLOCK)
    out = q_out + (b * S + s) * Hq * 2 * HALF
    turn(q + b * q_b + s * q_s, out, q_h, 2 * HALF, Hq, c1, c2, s1, s2, HALF, HEADS, BLOCK)
    place = tl.load(places + b * S + s) if PAGED else tl.load(places + b) + s
    if (place >= 0) & (place < num_places):
        k_out = k_cache + b * k_cache_b + place * k_cache_s
        v_out = v_cache + b * v_cache_b + place * v_cache_s
        turn(k + b * k_b + s * k_s, k_out, k_h, k_cache_h, Hk, c1, c2, s1, s2, HALF, HEADS, BLOCK)
        head, d, there = head_tile(Hk, 2 * HALF, HEADS, 2 * BLOCK)
        tl.store(v_out + head * v_cache_h + d, tl.load(v + b * v_b + s * v_s + head * v_h + d, mask=there), mask=there)


@triton.jit
def angles(cos, sin, token, HALF, INVERSE: tl.constexpr, BLOCK: tl.constexpr):
    """cos and sin of both halves of a head, [1, BLOCK]; INVERSE: the opposite angles, with sin's halves exchanged."""
    d = tl.arange(0, BLOCK)[None, :]
    there = d < HALF
    c1 = wide(tl.load(cos + token + d, mask=there, other=0.0))
    c2 = wide(tl.load(cos + token + HALF + d, mask=there, other=0.0))
    s1 = wide(tl.load(sin + token + d, mask=there, other=0.0))
    s2 = wide(tl.load(sin + token + HALF + d, mask=there, other=0.0))
    if INVERSE:
        return c1, c2, -s2, -s1
    else:
        return c1, c2, s1, s2


@triton.jit
def turn(x, out, x_h, out_h, H, c1, c2, s1, s2, HALF, HEADS: tl.constexpr, BLOCK: tl.constexpr):
    """out = x * cos + rotate_half(x) * sin for this program's heads; both halves are read before either is written."""
    head, d, there = head_tile(H, HALF, HEADS, BLOCK)
    dtype: tl.constexpr = out.dtype.element_ty
    x1 = wide(tl.load(x + head * x_h + d, mask=there, other=0.0))
    x2 = wide(tl.load(x + head * x_h + HALF + d, mask=there, other=0.0))
    y1 = rounded(x1 * c1, dtype) - rounded(x2 * s1, dtype)
    y2 = rounded(x2 * c2, dtype) + rounded(x1 * s2, dtype)
    tl.store(out + head * out_h + d, narrow(y1, dtype), mask=there)
    tl.store(out + head * out_h + HALF + d, narrow(y2, dtype), mask=there)


@triton.jit
def head_tile(H, D, HEADS: tl.constexpr, BLOCK: tl.constexpr):
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    d = tl.arange(0, BLOCK)[None, :]
    return head, d, (head < H) & (d < D)


def both(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, q_out: Tensor, k_out: Tensor, *, inverse: bool) -> None:
    _, S, Hq, D = q.shape
    check_shapes("rope", q, k, cos, sin)
    strides = [stride for x in (q, k, q_out, k_out) for stride in _strides(x)]
    if grid := _grid(q, k):
        rope_both[grid](
            *(q, k, cos, sin, q_out, k_out, *strides, _table_stride(cos), S, Hq, k.shape[2], D // 2),
            INVERSE=inverse,
            **_tile(D),
            **EXACT,
        )


def into_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    starts: Tensor | None,
    slots: Tensor | None,
    q_out: Tensor,
) -> None:
    _, S, Hq, D = q.shape
    check_append(q, k, v, cos, sin, k_cache, v_cache, starts, slots)
    strides = [stride for x in (q, k, v, k_cache, v_cache) for stride in _strides(x)]
    if grid := _grid(q, k):
        rope_into_cache[grid](
            *(q, k, v, cos, sin, k_cache, v_cache, slots if starts is None else starts, q_out),
            *(*strides, _table_stride(cos), S, Hq, k.shape[2], D // 2, k_cache.shape[-3]),
            PAGED=starts is None,
            **_tile(D),
            **EXACT,
        )


def _strides(x: Tensor) -> tuple[int, ...]:
    """Of batch, token and head; a paged cache has no batch."""
    return (0, *x.stride())[-4:-1]


def _grid(q: Tensor, k: Tensor) -> tuple[int, int] | None:
    """Tokens by tiles of heads; None where there is nothing to do."""
    B, S, Hq, _ = q.shape
    tiles = triton.cdiv(max(Hq, k.shape[2]), HEADS)
    return (B * S, tiles) if B * S * tiles else None


def _tile(D: int) -> dict[str, int]:
    return {"HEADS": HEADS, "BLOCK": triton.next_power_of_2(max(1, D // 2)), "num_warps": 4}


def _table_stride(cos: Tensor) -> int:
    return 0 if cos.shape[0] == 1 else cos.stride(0)


KERNELS = {
    "rope": TritonKernel(functools.partial(both, inverse=False)),
    "rope_": TritonKernel(functools.partial(both, inverse=False)),
    "rope_backward": TritonKernel(functools.partial(both, inverse=True)),
    "rope_append_kv": TritonKernel(into_cache),
}

_TENSORS = {"q", "k", "v", "cos", "sin", "q_out", "k_out", "k_cache", "v_cache"}


def _static_case(name: str, kernel: triton.JITFunction, arch: int, **constants: bool) -> StaticCase:
    """32 heads of 128 in bfloat16."""
    tile = _tile(128)
    options = {"num_warps": tile.pop("num_warps"), **EXACT}
    signature = {"places": "*i64"} if "PAGED" in constants else {}
    for argument in kernel.arg_names:
        if argument not in {"places", *constants, *tile}:
            signature[argument] = "*bf16" if argument in _TENSORS else "i32"
    return StaticCase(
        name=f"{name} sm_{arch}",
        kernel=kernel,
        signature=signature,
        constants=constants | tile,
        divisible_by_16=tuple(name for name in signature if name[-2:] in {"_b", "_s", "_h"} or name == "HALF"),
        options=options,
        sass=("LDG.128", "STG.128"),
        arch=arch,
    )


STATIC_CASES = tuple(
    _static_case(name, kernel, arch, **constants)
    for arch in (80, 90)
    for name, kernel, constants in (
        ("rope", rope_both, {"INVERSE": False}),
        ("rope_append_kv dense", rope_into_cache, {"PAGED": False}),
        ("rope_append_kv paged", rope_into_cache, {"PAGED": True}),
    )
)
