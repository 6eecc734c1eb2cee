"""gemm.h, the matrix product that the ops share: exact to its rounding, and each element on its own."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from cpu_vocabulary import pointer, size, vocabulary
from numpy.typing import NDArray

SHAPES = [
    # M, N, K
    (70, 40, 600),
    (1, 17, 513),
    (33, 31, 63),
    (5, 1, 7),
    (1, 1, 1),
    (66, 33, 32),
    (3, 4, 0),
    (0, 5, 8),
]
every_isa = pytest.mark.parametrize("isa", ["avx2", "avx512", "amx_emulated"])
Floats = NDArray[np.float32]


def operand(isa: str, x: Floats) -> NDArray[np.generic]:
    """`x`, whose lower halves are zero, in the type that the ISA multiplies."""
    return (x.view(np.uint32) >> 16).astype(np.uint16) if isa == "amx_emulated" else x


def random_matrix(rng: np.random.Generator, *shape: int) -> Floats:
    """Numbers that are exact in bfloat16, so that every ISA sees the same."""
    return (rng.standard_normal(shape).astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


def multiply(isa: str, a: Floats, b: Floats) -> Floats:
    """a @ b^T by gemm.h on scratch memory full of NaN; every element must have been given exactly once."""
    library = vocabulary(isa)
    library.scratch_bytes.restype = ctypes.c_int64
    (M, K), N = a.shape, b.shape[0]
    scratch = np.full(library.scratch_bytes(size(M), size(K)) + 64, 0xFF, np.uint8)
    c, counts = np.full((M, N), np.nan, np.float32), np.zeros((M, N), np.int32)
    operands = operand(isa, a), operand(isa, b)
    library.multiply(*map(pointer, operands), *map(size, (M, N, K)), *map(pointer, (scratch, c, counts)))
    assert (counts == 1).all()
    return c


@every_isa
@pytest.mark.parametrize(("M", "N", "K"), SHAPES)
def test_product(isa: str, M: int, N: int, K: int) -> None:
    """Within the bound of a float32 sum in any order: (K + 1) 2^-24 times the sum of magnitudes."""
    rng = np.random.default_rng(M + N + K)
    a, b = random_matrix(rng, M, K), random_matrix(rng, N, K)
    exact = a.astype(np.float64) @ b.T.astype(np.float64)
    bound = (K + 1) * 2.0**-24 * (np.abs(a).astype(np.float64) @ np.abs(b.T).astype(np.float64))
    assert (np.abs(multiply(isa, a, b) - exact) <= bound).all()


@every_isa
def test_an_element_depends_on_its_two_rows_alone(isa: str) -> None:
    """Bitwise, wherever the rows stand and whatever stands beside them, NaN included."""
    rng = np.random.default_rng(0)
    a, b = random_matrix(rng, 70, 600), random_matrix(rng, 40, 600)
    whole = multiply(isa, a, b)
    for rows, columns in ((slice(69, 70), slice(39, 40)), (slice(3, 36), slice(5, 38)), (slice(0, 65), slice(0, 1))):
        np.testing.assert_array_equal(multiply(isa, a[rows].copy(), b[columns].copy()), whole[rows, columns])
    a[7], b[11] = np.nan, np.inf
    spoilt = multiply(isa, a, b)
    assert not np.isfinite(spoilt[7]).any() and not np.isfinite(spoilt[:, 11]).any()
    kept = np.ix_(np.arange(70) != 7, np.arange(40) != 11)
    np.testing.assert_array_equal(spoilt[kept], whole[kept])
