"""The float32 vector vocabulary of each ISA against its definition in float64, at every tail length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cpu_vocabulary import pointer, size, vocabulary
from numpy.typing import NDArray

ISAS = ["avx2", "avx512", "avx512_bf16"]
SPECIAL = np.float32(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 88.72, 88.73, 89.5, 1e38, -87.3, -87.4, -103.9, -104.5, -1e38, 1e-40, -1e-40]
)
every_isa = pytest.mark.parametrize("isa", ISAS)


def call(isa: str, name: str, x: NDArray[np.generic], dtype: type[np.generic]) -> NDArray[np.generic]:
    """name(x) into memory that is poisoned around the result."""
    y = np.full(len(x) + 2, 77, dtype)
    getattr(vocabulary(isa), name)(pointer(x), pointer(y[1:]), size(len(x)))
    assert y[0] == 77 and y[-1] == 77, "wrote outside its n elements"
    return y[1:-1]


def ulps(got: NDArray[np.float32], exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance in units of the last place of the exact value, denormals included."""
    exponent = np.maximum(np.floor(np.log2(np.maximum(np.abs(exact), 1e-300))), -126)
    return np.abs(got - exact) / np.exp2(exponent - 23)


@every_isa
def test_exp_within_one_ulp(isa: str) -> None:
    x = np.concatenate([np.linspace(-104, 88.7, 200_001), np.linspace(-1, 1, 50_001)]).astype(np.float32)
    got = call(isa, "exp_of", x, np.float32)
    assert ulps(got, np.exp(x.astype(np.float64))).max() <= 1.0


@every_isa
def test_exp_of_special_values(isa: str) -> None:
    got = call(isa, "exp_of", SPECIAL, np.float32)
    with np.errstate(over="ignore"):
        wanted = np.exp(SPECIAL.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(wanted))
    finite = np.isfinite(wanted)
    np.testing.assert_allclose(got[finite], wanted[finite], rtol=2**-22, atol=2**-149)


@every_isa
def test_silu_is_torchs(isa: str) -> None:
    """Within 3 ulp where the result is normal; NaN for NaN and -inf; -0 or a tiny number far below zero."""
    x = np.concatenate([np.linspace(-87, 100, 100_001), SPECIAL]).astype(np.float32)
    got = call(isa, "silu_of", x, np.float32)
    wanted = torch.nn.functional.silu(torch.from_numpy(x).double()).numpy()
    defined = np.isfinite(wanted) & (x > -87.3)
    assert ulps(got[defined], wanted[defined]).max() <= 3
    in_torch = torch.nn.functional.silu(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(in_torch))
    np.testing.assert_allclose(got[~defined], in_torch[~defined], atol=1e-35)


@every_isa
@pytest.mark.parametrize("name", ["narrow", "narrow_scalar"])
def test_to_bf16_rounds_to_nearest_even(isa: str, name: str) -> None:
    """Every bfloat16, its neighbours, and every tie, against torch; a NaN of any payload stays a NaN."""
    upper = np.arange(2**16, dtype=np.uint32) << 16
    x = (upper[:, None] | np.uint32([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])).reshape(-1).view(np.float32)
    got = call(isa, name, x, np.uint16)
    wanted = torch.from_numpy(x).bfloat16().view(torch.int16).numpy().view(np.uint16)
    is_nan = np.isnan(x)
    np.testing.assert_array_equal(got[~is_nan], wanted[~is_nan])
    assert (got[is_nan] == 0x7FC0).all()


@every_isa
def test_reciprocal_within_one_ulp(isa: str) -> None:
    x = np.concatenate([np.geomspace(1e-37, 1e37, 100_001), np.linspace(1, 2, 50_001)]).astype(np.float32)
    assert ulps(call(isa, "reciprocal_of", x, np.float32), 1 / x.astype(np.float64)).max() <= 1.0
    special = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan])
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(call(isa, "reciprocal_of", special, np.float32), 1 / special)


@every_isa
def test_pairs_round_to_nearest_even(isa: str) -> None:
    """Every bfloat16, its neighbours, and every tie; a NaN with an empty lower half stays one."""
    upper = np.arange(2**16, dtype=np.uint32) << 16
    x = (upper[:, None] | np.uint32([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])).reshape(-1).view(np.float32)
    x = x[~np.isnan(x) | (x.view(np.uint32) & 0xFFFF == 0)]
    got = call(isa, "rounded_pairs", x, np.float32)
    np.testing.assert_array_equal(got, torch.from_numpy(x).bfloat16().float().numpy())


@every_isa
@pytest.mark.parametrize("n", [*range(0, 70), 2**16])
def test_pairs_keep_their_places(isa: str, n: int) -> None:
    x = np.arange(0x3F80, 0x3F80 + n).astype(np.uint16)
    wanted = (torch.from_numpy(x).view(torch.bfloat16) * 0.5).float().numpy()
    got = torch.from_numpy(call(isa, "halved_pairs", x, np.uint16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(got, wanted)
    floats = np.arange(n, dtype=np.float32)
    rounded = torch.from_numpy(floats).bfloat16().float().numpy()
    np.testing.assert_array_equal(call(isa, "rounded_pairs", floats, np.float32), rounded)


@every_isa
def test_widening_is_exact(isa: str) -> None:
    halves, bytes_ = np.arange(2**16, dtype=np.uint16), np.arange(256, dtype=np.uint8)
    got = call(isa, "widen", halves, np.float32)
    np.testing.assert_array_equal(got.view(np.uint32), halves.astype(np.uint32) << 16)
    np.testing.assert_array_equal(call(isa, "widen_bytes", bytes_, np.float32), bytes_.astype(np.float32))


@every_isa
@pytest.mark.parametrize("n", range(0, 35))
def test_tails_touch_exactly_n_elements(isa: str, n: int) -> None:
    halves = np.arange(0x3F80, 0x3F80 + n, dtype=np.uint16)
    floats = call(isa, "widen", halves, np.float32)
    np.testing.assert_array_equal(call(isa, "narrow", floats.copy(), np.uint16), halves)
    np.testing.assert_array_equal(call(isa, "exp_of", np.zeros(n, np.float32), np.float32), np.ones(n, np.float32))


@every_isa
def test_lane_reductions(isa: str) -> None:
    width = vocabulary(isa).width()
    x = np.float32([(-2.0) ** i for i in range(width)])
    assert vocabulary(isa).sum_of_lanes(pointer(x)) == x.sum(dtype=np.float64)
    for lane in range(width):
        assert vocabulary(isa).largest_lane(pointer(np.roll(x, lane))) == x.max()
