"""A sample for the tests of bench/gpu_static.py: one product on tensor cores."""

from __future__ import annotations

import triton
import triton.language as tl

from lynx_engine.cases import StaticCase


@triton.jit
def product(a, b, c, K, M: tl.constexpr, N: tl.constexpr, STEP: tl.constexpr):
    """c [M, N] = a [M, K] @ b [K, N] in bfloat16 with float32 sums."""
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, STEP)
    sums = tl.zeros((M, N), tl.float32)
    for first in range(0, K, STEP):
        a_tile = tl.load(a + m[:, None] * K + first + k[None, :])
        b_tile = tl.load(b + (first + k[:, None]) * N + n[None, :])
        sums = tl.dot(a_tile, b_tile, sums)
    tl.store(c + m[:, None] * N + n[None, :], sums.to(tl.bfloat16))


STATIC_CASES = (
    StaticCase(
        name="product 64x128",
        kernel=product,
        signature={"a": "*bf16", "b": "*bf16", "c": "*bf16", "K": "i32"},
        constants={"M": 64, "N": 128, "STEP": 64},
        divisible_by_16=("K",),
        options={"num_warps": 4, "num_stages": 3},
        sass=("HGMMA", "LDGSTS.128"),
    ),
)
