"""Quantised linears: what test_ops.py cannot say by cases alone: the format, its error, row and ISA independence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from lynx_engine.kernels.quantized_linear import packing
from torch import Tensor

from lynx_engine import native, ops, registry
from lynx_engine.errors import LynxError

ROOT = Path(__file__).resolve().parents[1]

FORMATS = [("int8", None), ("int8", 32), ("int8", 128), ("int4", 32), ("int4", 128)]
every_format = pytest.mark.parametrize(("format", "group"), FORMATS)
both = pytest.mark.parametrize("function", [ops.quantized_linear, ops.weight_only_linear], ids=lambda f: f.__name__)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def runnable(op: str, dtype: torch.dtype) -> list[str]:
    return [
        name
        for name, (_, dtypes) in native.kernels(op).items()
        if dtype in dtypes and not native.isa_refusals(name.removeprefix("cpu_"))
    ]


@every_format
@pytest.mark.parametrize(("N", "K"), [(1, 1), (16, 32), (17, 129), (40, 300)])
def test_every_number_is_the_nearest_that_its_scale_allows(format: str, group: int | None, N: int, K: int) -> None:
    weight, up = normal(N, K), normal(N, K, seed=1)
    quantized = ops.quantize_linear(weight, format, group, up=up)
    both = ops.dequantize_linear(*quantized, N, K, gated=True)
    assert torch.equal(both[0], ops.dequantize_linear(*ops.quantize_linear(weight, format, group), N, K))
    depth = packing.padded_depth(K, group)
    levels = torch.arange(-127, 128.0) if format == "int8" else torch.tensor(packing.CODEBOOK) - 128.0
    scales = quantized.scales.float().unflatten(0, (-1, 2)).transpose(0, 1).transpose(2, 3).flatten(1, 2)[:, :N]
    scales = scales.repeat_interleave(depth // quantized.scales.shape[1], dim=2)[:, :, :K]
    nearest = (torch.stack((weight, up))[..., None] - scales[..., None] * levels).abs().amin(-1)
    torch.testing.assert_close((torch.stack((weight, up)) - both).abs(), nearest, rtol=0, atol=1e-6)


@every_format
def test_layout_of_the_codes(format: str, group: int | None) -> None:
    """The layout is a file format: element by element."""
    N, K = 18, 70
    codes, scales = ops.quantize_linear(normal(N, K), format, group)
    dense = ops.dequantize_linear(codes, scales, N, K)
    depth = packing.padded_depth(K, group)
    assert (tuple(codes.shape), tuple(scales.shape)) == ops.quantized_shapes(N, K, format, group)
    assert scales.shape == (2, depth // (group or depth), 16) and scales.dtype == torch.bfloat16
    assert codes.shape == ((2, depth // 4, 16, 4) if format == "int8" else (2, depth // 8, 64))
    for n in range(N):
        for k in range(K):
            if format == "int8":
                number = int(codes[n // 16, k // 4, n % 16, k % 4]) - 128
            else:
                byte = int(codes[n // 16, k // 8, n % 16 * 4 + k % 4])
                number = packing.CODEBOOK[byte >> 4 if k % 8 >= 4 else byte & 15] - 128
            assert dense[n, k] == number * scales[n // 16, k // (group or depth), n % 16].float()


def test_codebook_of_the_kernels_is_that_of_the_format() -> None:
    text = (ROOT / "kernels" / "quantized_linear" / "params.h").read_text()
    found = re.search(r"kCodebook\[16\] = \{([^}]*)\}", text)
    assert found and tuple(map(int, found[1].split(","))) == packing.CODEBOOK


def test_scales_that_the_kernels_search_are_those_of_the_format() -> None:
    text = (ROOT / "kernels" / "quantized_linear" / "params.h").read_text()
    found = re.search(r"kSearched\[5\] = \{([^}]*)\}", text)
    assert found and tuple(map(float, found[1].split(","))) == packing.SEARCHED


def awkward(N: int, K: int) -> Tensor:
    """Normal rows, heavy tails, all equal, one number alone, zeros, tiny, denormal, huge ones, ties between levels."""
    weight = normal(N, K)
    weight[1::9] = weight[1::9] ** 3
    weight[2::9] = 0.3
    weight[3::9, 1:] = 0
    weight[4::9] = 0
    weight[5::9] *= 1e-18
    weight[6::9] *= 1e-39
    weight[7::9] *= 1e30
    weight[8::9] = (weight[8::9] * 40).round() / 2
    return weight


@every_format
@pytest.mark.parametrize(("N", "K"), [(1, 1), (40, 300), (33, 128), (9, 0), (0, 32)])
def test_every_backend_makes_the_same_codes_and_scales(format: str, group: int | None, N: int, K: int) -> None:
    """As torch does, to the bit: of float32 and bfloat16, rows apart, and after a wider dtype."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        weight = awkward(N, K).to(dtype)
        wide = torch.full((N, K + 7), torch.nan, dtype=dtype)
        wide[:, 3 : 3 + K] = weight
        wanted = packing._packed(weight, format, group, backend=registry.REFERENCE)
        assert (tuple(wanted.codes.shape), tuple(wanted.scales.shape)) == ops.quantized_shapes(N, K, format, group)
        for backend in runnable("quantize_weight", torch.float32):
            for given in (weight, wide[:, 3 : 3 + K], weight.T.contiguous().T):
                got = packing._packed(given, format, group, backend=backend)
                assert torch.equal(got.codes, wanted.codes) and torch.equal(got.scales, wanted.scales)


@pytest.mark.parametrize(
    ("format", "group", "error"),
    [("int8", None, 0.0087), ("int8", 32, 0.0054), ("int4", 32, 0.0737), ("int4", 128, 0.0867)],
)
def test_error_of_normal_weights(format: str, group: int | None, error: float) -> None:
    """Root mean square, of that of the weights: README.md has more."""
    weight = normal(64, 4096)
    off = ops.dequantize_linear(*ops.quantize_linear(weight, format, group), 64, 4096) - weight
    assert off.norm() / weight.norm() == pytest.approx(error, rel=0.02)


@every_format
def test_zeros_stay_zeros(format: str, group: int | None) -> None:
    weight = torch.zeros(20, 40)
    assert not ops.dequantize_linear(*ops.quantize_linear(weight, format, group), 20, 40).any()
    y = ops.quantized_linear(torch.zeros(2, 40), *ops.quantize_linear(normal(20, 40), format, group), out_features=20)
    assert not y.any()


@every_format
@both
def test_a_row_depends_on_itself_alone(function: object, format: str, group: int | None) -> None:
    """Bitwise: alone or among others, first or last, and beside NaN; more than a chunk of rows, K over a slice."""
    K, N, op = 1100, 70, function.__name__  # type: ignore[attr-defined]
    weight = ops.quantize_linear(normal(N, K, seed=1), format, group)
    for dtype in (torch.float32, torch.bfloat16):
        x = normal(530, K).to(dtype)
        for backend in runnable(op, dtype):

            def run(rows: Tensor, backend: str = backend) -> Tensor:
                return function(rows, *weight, out_features=N, backend=backend)  # type: ignore[operator, no-any-return]

            whole = run(x)
            for begin, end in ((0, 1), (529, 530), (3, 11), (100, 113), (100, 180)):
                assert torch.equal(run(x[begin:end]), whole[begin:end])
            spoilt = x[:20].clone()
            spoilt[5, 7] = torch.nan
            beside = run(spoilt)
            assert beside[5].isnan().all()
            kept = torch.arange(20) != 5
            assert torch.equal(beside[kept], whole[:20][kept])


@every_format
def test_integers_give_the_same_bits_on_every_instruction_set(format: str, group: int | None) -> None:
    weight = ops.quantize_linear(normal(40, 1500, seed=1), format, group)
    for dtype in (torch.float32, torch.bfloat16):
        x = normal(13, 1500).to(dtype)
        found = [
            ops.quantized_linear(x, *weight, out_features=40, backend=backend)
            for backend in runnable("quantized_linear", dtype)
        ]
        assert all(torch.equal(y, found[0]) for y in found)


WEIGHT = ops.quantize_linear(torch.zeros(8, 40), "int4")


@pytest.mark.parametrize("backend", ["auto", registry.REFERENCE])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "relu"}, "activation must be None, silu, gelu, gated_silu, got 'relu'"),
        ({"out_features": 17}, "out_features must be 1 to 16 with this weight, got 17"),
        ({"bias": torch.zeros(7)}, r"bias must be \[N=8\]|bias must be \[8\], got \[7\]"),
        ({"residual": torch.zeros(2, 8)}, r"residual must be \[3, 8\], got \[2, 8\]"),
        ({"x": torch.zeros(3, 65)}, "codes.* must be of K=65"),
        ({"scales": WEIGHT.scales[:, :1]}, "groups|must be of K=40"),
    ],
)
@both
def test_what_is_refused(function: object, change: dict[str, object], message: str, backend: str) -> None:
    arguments = {"x": torch.zeros(3, 40), "codes": WEIGHT.codes, "scales": WEIGHT.scales, "out_features": 8} | change
    with pytest.raises(LynxError, match=message):
        function(**arguments, backend=backend)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(4, 4), "int3"), "got int3$"),
        ((torch.zeros(4, 4), "int4", 64), "got int4 with groups of 64"),
        ((torch.zeros(4), "int4"), r"weight must be \[N, K\] as the weight, got \[4\]"),
        ((torch.full((4, 4), torch.nan), "int8"), "weight holds NaN or infinity"),
        ((torch.tensor([[1.0, -torch.inf]]), "int4"), "weight holds NaN or infinity"),
    ],
)
def test_what_cannot_be_quantised(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(LynxError, match=message):
        ops.quantize_linear(*arguments)  # type: ignore[arg-type]
