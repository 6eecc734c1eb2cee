"""Weights as small integers with scales, in the strips of 16 rows that kernels read.

int8   codes [strips, depth / 4, 16, 4] uint8: codes[s, f, n, i] is of weight[16 s + n, 4 f + i]
int4   codes [strips, depth / 8, 64] uint8: byte 4 n + i of step p has the code of weight[16 s + n, 8 p + i] below and
       that of weight[16 s + n, 8 p + 4 + i] above
both   scales [strips, depth / group, 16] bfloat16; depth is K up to whole groups (one group of all K: up to 128)

weight = (byte - 128) * scale; a 4-bit code is a place in CODEBOOK, which has the bytes. Four neighbours in k of 16
columns are what vpdpbusd multiplies. A gated weight has the strips of two matrices in turn: gate, up, gate, up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lynx_engine.errors import LynxError
from lynx_engine.registry import Op, Takes, tensor_refusals

STRIP = 16
BLOCK = 128  # values of k under one scale of x, at most
ZERO = 128
CODEBOOK = (1, 33, 53, 70, 84, 97, 109, 120, 132, 143, 155, 168, 182, 198, 218, 245)
FORMATS = {"int8": (None, 32, 128), "int4": (32, 128)}
_ROWS_AT_A_TIME = 1024
SEARCHED = (0.85, 0.9375, 1.025, 1.1125, 1.2)


class QuantizedWeight(NamedTuple):
    """What `quantized_linear` and `weight_only_linear` take: two ordinary tensors, to be saved and mapped."""

    codes: Tensor
    scales: Tensor


def quantize_linear(
    weight: Tensor, format: str, group_size: int | None = None, *, up: Tensor | None = None
) -> QuantizedWeight:
    """`weight` [N, K], of any floating dtype, in 8 or 4 bits a number and a bfloat16 scale a group of K.

    format: "int8" with one group a row of all K (the default), or groups of 32 or 128; "int4" with groups of 32 (the
    default) or 128. up: as in `pack_linear`, for "gated_silu".
    int8 rounds to steps of the largest magnitude / 127. int4 takes the nearest of 16 levels that are denser around
    zero (CODEBOOK), with the scale of least square error that a search finds.

    LynxError: an unknown format or group, not two axes, NaN or infinity, or matrices that differ in shape.
    """
    group = group_of(format, group_size)
    for name, matrix in (("weight", weight), ("up", up)):
        if matrix is not None and (matrix.dim() != 2 or matrix.shape != weight.shape):
            raise LynxError(f"quantize_linear: {name} must be [N, K] as the weight, got {list(matrix.shape)}")
        if matrix is not None and matrix.numel() and not all(bound.isfinite() for bound in matrix.aminmax()):
            raise LynxError(f"quantize_linear: {name} holds NaN or infinity")
    if up is None:
        return _packed(weight, format, group)
    both = [_packed(matrix, format, group) for matrix in (weight, up)]
    return QuantizedWeight(*(torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*both, strict=True)))


def quantized_shapes(
    out_features: int, in_features: int, format: str, group_size: int | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of the codes (uint8) and of the scales (bfloat16) of a weight [N, K]."""
    group = group_of(format, group_size)
    strips, depth = -(-out_features // STRIP), padded_depth(in_features, group)
    codes = (strips, depth // 4, STRIP, 4) if format == "int8" else (strips, depth // 8, 4 * STRIP)
    return codes, (strips, depth // (group or depth), STRIP)


def group_of(format: str, group_size: int | None) -> int | None:
    """`group_size`, or the format's own where None; None is one group a row. LynxError for what there is not."""
    group = group_size or ({"int4": 32}.get(format))
    if format not in FORMATS or group not in FORMATS[format]:
        known = "int8 (one group a row, or groups of 32 or 128) or int4 (groups of 32 or 128)"
        got = f"{format}" if group_size is None else f"{format} with groups of {group_size}"
        raise LynxError(f"quantization: wanted {known}, got {got}")
    return group


def dequantize_linear(
    codes: Tensor, scales: Tensor, out_features: int, in_features: int, *, gated: bool = False
) -> Tensor:
    """The [N, K] float32 that codes and scales stand for; of a gated weight [2, N, K]: gate, up.

    LynxError: tensors that are no quantised weight of these sizes.
    """
    matrices = 2 if gated else 1
    check_weight("dequantize_linear", codes, scales, in_features)
    strips = -(-out_features // STRIP) * matrices
    if codes.shape[0] != strips:
        raise LynxError(f"dequantize_linear: codes must be of {strips} strips, got {codes.shape[0]}")
    rows = dequantized_rows(codes, scales).unflatten(0, (strips // matrices, matrices, STRIP))
    found = rows.transpose(0, 1).flatten(1, 2)[:, :out_features, :in_features]
    return found if gated else found[0]


def check_weight(op: str, codes: Tensor, scales: Tensor, in_features: int) -> None:
    """LynxError unless both are a quantised weight over `in_features` values of k."""
    shapes = f"codes {list(codes.shape)} and scales {list(scales.shape)}"
    inner = (STRIP, 4) if codes.dim() == 4 else (64,)
    if codes.dim() not in (3, 4) or tuple(codes.shape[2:]) != inner or scales.dim() != 3 or scales.shape[2] != STRIP:
        raise LynxError(f"{op}: codes and scales must be those of quantize_linear, got {shapes}")
    if codes.shape[0] != scales.shape[0] or codes.dtype != torch.uint8:
        raise LynxError(f"{op}: codes must be uint8 and have the scales' strips, got {codes.dtype}, {shapes}")
    depth, groups = depth_of(codes), scales.shape[1]
    sizes = [(padded_depth(in_features, group), group) for group in (32, 128)]
    sizes += [(size, size) for size in (padded_depth(in_features, None), 32) if size >= in_features]
    if not any(depth == size and groups * group == size for size, group in sizes):
        raise LynxError(f"{op}: codes and scales must be of K={in_features}, got {shapes}")


def padded_depth(in_features: int, group: int | None) -> int:
    step = group or BLOCK
    return max(-(-in_features // step), 1) * step


def depth_of(codes: Tensor) -> int:
    return codes.shape[1] * (8 if codes.dim() == 3 else 4)


def dequantized_rows(codes: Tensor, scales: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """[strips * 16, depth]: every row that the strips hold, padding and both matrices of a gated weight included."""
    numbers = integers(codes).to(dtype).unflatten(1, (scales.shape[1], -1))
    return (numbers * scales.to(dtype).transpose(1, 2).flatten(0, 1)[..., None]).flatten(1)


def integers(codes: Tensor) -> Tensor:
    """[strips * 16, depth] int16: bytes - 128."""
    if codes.dim() == 3:
        codebook = torch.tensor(CODEBOOK, dtype=torch.uint8, device=codes.device)
        places = torch.stack((codes & 15, codes >> 4), dim=2).unflatten(3, (STRIP, 4)).flatten(1, 2)
        codes = codebook[places.int()]
    return codes.transpose(1, 2).flatten(2).flatten(0, 1).to(torch.int16) - ZERO


def _packed(weight: Tensor, format: str, group: int | None, backend: str = "auto") -> QuantizedWeight:
    """The same bits on every backend."""
    weight = weight.detach()
    if weight.dtype not in (torch.float32, torch.bfloat16) or weight.stride(1) != 1:
        weight = weight.float().contiguous()
    return QuantizedWeight(*_quantize(backend, weight, format, group))


def _refusals(takes: Takes, weight: Tensor, format: str, group: int | None) -> Sequence[str]:
    return tensor_refusals(takes, weight)


def _native(kernel: Callable[..., None], weight: Tensor, format: str, group: int | None) -> tuple[Tensor, Tensor]:
    shapes = quantized_shapes(weight.shape[0], weight.shape[1], format, group)
    codes, scales = torch.empty(shapes[0], dtype=torch.uint8), torch.empty(shapes[1], dtype=torch.bfloat16)
    kernel(weight, codes, scales)
    return codes, scales


def _reference(weight: Tensor, format: str, group: int | None) -> tuple[Tensor, Tensor]:
    """Some rows at a time: the search for 4-bit scales has several float32 copies of them at once."""
    parts = [_packed_rows(rows, format, group) for rows in weight.split(_ROWS_AT_A_TIME)] if len(weight) else []
    codes, scales = zip(*(parts or [_packed_rows(weight, format, group)]), strict=True)
    return torch.cat(codes), torch.cat(scales)


_quantize = Op("quantize_weight", reference=_reference, native=_native, refusals=_refusals)


def _packed_rows(weight: Tensor, format: str, group: int | None) -> tuple[Tensor, Tensor]:
    N, K = weight.shape
    depth = padded_depth(K, group)
    rows = F.pad(weight.float(), (0, depth - K, 0, -N % STRIP))
    groups = rows.unflatten(1, (-1, group or depth))
    scales = (_scales_of_8_bits if format == "int8" else _scales_of_4_bits)(groups)
    numbers = groups / _divisors(scales)[..., None]
    scales = scales.bfloat16().unflatten(0, (-1, STRIP)).transpose(1, 2).contiguous()
    if format == "int8":
        return _fours((numbers.round().clamp(-127, 127) + ZERO).to(torch.uint8).flatten(1)), scales
    places = _fours(_nearest(numbers).to(torch.uint8).flatten(1)).flatten(2).unflatten(1, (-1, 2))
    return places[:, :, 0] | places[:, :, 1] << 4, scales


def _fours(numbers: Tensor) -> Tensor:
    """[strips * 16, depth] as [strips, depth / 4, 16, 4]."""
    return numbers.unflatten(1, (-1, 4)).unflatten(0, (-1, STRIP)).transpose(1, 2).contiguous()


def _rounded(scales: Tensor) -> Tensor:
    return scales.bfloat16().float()


def _divisors(scales: Tensor) -> Tensor:
    """A scale of 0 has numbers of 0 only."""
    return torch.where(scales == 0, 1, scales)


def _scales_of_8_bits(groups: Tensor) -> Tensor:
    return _rounded(groups.abs().amax(-1) / 127)


def _levels(like: Tensor) -> Tensor:
    return torch.tensor(CODEBOOK, dtype=torch.float32, device=like.device) - ZERO


def _nearest(numbers: Tensor) -> Tensor:
    """The place of the nearest level."""
    levels = _levels(numbers)
    return torch.bucketize(numbers, (levels[1:] + levels[:-1]) / 2, out_int32=True)


def _scales_of_4_bits(groups: Tensor) -> Tensor:
    """Of scales that put the largest magnitude at 85 to 120 % of 127, either way round, the one of least square error;
    then the one of least squares for the levels that it chose. Sixteen steps instead of five make the error of normal
    weights 7.28 % instead of 7.37 %, and take three times as long."""
    columns, levels, largest = groups.movedim(-1, 0).contiguous(), _levels(groups), groups.abs().amax(-1)
    best, least = torch.zeros_like(largest), _sum(columns.square())

    def consider(scales: Tensor) -> None:
        nonlocal best, least
        scales = _rounded(scales)
        chosen = levels[_nearest(columns / _divisors(scales))]
        error = _sum((columns - chosen * scales).square())
        best, least = torch.where(error < least, scales, best), torch.minimum(error, least)

    for part in SEARCHED:
        consider(largest / (127 * part))
        consider(-largest / (127 * part))
    chosen = levels[_nearest(columns / _divisors(best))]
    consider(_sum(columns * chosen) / _sum(chosen.square()).clamp_min(1))
    return best


def _sum(terms: Tensor) -> Tensor:
    """Over the first axis, in its order: the sums of the kernels, to the bit."""
    total = terms[0].clone()
    for term in terms[1:]:
        total += term
    return total
