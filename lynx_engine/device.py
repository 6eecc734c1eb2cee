"""Device functions that Triton kernels share: numbers in and out of float32, and products. Needs triton.

Triton's interpreter holds bfloat16 as bare bits: it multiplies the bits, and cuts a float32 off instead of rounding it.
So numbers change their type here only: by the GPU's instructions when compiled, by their bits when interpreted.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .cuda import interprets

INTERPRETED = tl.constexpr(interprets())


@triton.jit
def wide(x):
    """x in float32."""
    if INTERPRETED and x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """float32 x rounded to the nearest, ties to even, of `dtype`."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        half = 0x7FFF + ((bits >> 16) & 1)
        bits = tl.where(x == x, bits + half, 0x7FC00000)
        return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(dtype)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """float32 x to `dtype` and back: a step that the plain stack stores."""
    return wide(narrow(x, dtype))


@triton.jit
def product(a, b, dtype: tl.constexpr):
    """a @ b of operands in `dtype` with float32 sums: on tensor cores; float32 in full precision, not TF32."""
    if INTERPRETED:
        return tl.dot(wide(a), wide(b))
    else:
        return tl.dot(a.to(dtype), b.to(dtype), input_precision="ieee")
