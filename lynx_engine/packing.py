"""The packed layout of a weight: strips of 16 rows of [N, K], the columns of y = x W^T that a kernel makes together.

float32   [strips, K, 16]            packed[s, k, n]       = weight[16 s + n, k]
bfloat16  [strips, K' / 2, 16, 2]    packed[s, p, n, i]    = weight[16 s + n, 2 p + i],  K' = K up to a multiple of 32

Beyond the matrix there are zeros. Pairs along K are what vdpbf16ps and AMX multiply: 16 of them by 16 columns are one
AMX tile of 1 KiB. A gated weight has the strips of two matrices in turn: gate, up, gate, up.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import LynxError

STRIP = 16
PAIRS_TO = 32


def pack(weight: Tensor, up: Tensor | None = None) -> Tensor:
    """The strips of [N, K]; with `up` those of both in turn. ops.pack_linear is its public name."""
    if weight.dim() != 2:
        raise LynxError(f"pack_linear: weight must be [N, K], got {list(weight.shape)}")
    if up is None:
        return _strips(weight)
    if up.shape != weight.shape or up.dtype != weight.dtype:
        wanted = f"{list(weight.shape)} {weight.dtype}"
        raise LynxError(f"pack_linear: up must be {wanted} as the gate, got {list(up.shape)} {up.dtype}")
    return torch.stack((_strips(weight), _strips(up)), dim=1).flatten(0, 1)


def unpack(packed: Tensor, out_features: int, in_features: int) -> Tensor:
    """The [N, K] that was packed; of a gated weight [2, N, K]: gate, up. ops.unpack_linear is its public name."""
    strips, depth = -(-out_features // STRIP), _packed_depth(in_features, pairs=packed.dim() == 4)
    inner = (depth // 2, STRIP, 2) if packed.dim() == 4 else (depth, STRIP)
    if tuple(packed.shape) not in ((strips, *inner), (2 * strips, *inner)):
        wanted = f"{[strips, *inner]}, or {2 * strips} strips of a gated one"
        raise LynxError(
            f"unpack_linear: [{out_features}, {in_features}] is packed as {wanted}, got {list(packed.shape)}"
        )
    rows = packed.transpose(1, 2) if packed.dim() == 4 else packed.transpose(1, 2)[..., None]
    count = 2 if packed.shape[0] > strips else 1
    matrices = rows.flatten(2).unflatten(0, (strips, count)).transpose(0, 1).flatten(1, 2)
    matrices = matrices[:, :out_features, :in_features]
    return matrices[0].contiguous() if matrices.shape[0] == 1 else matrices.contiguous()


def packed_rows(weight: Tensor) -> int:
    """Rows that the strips of a packed weight hold, padding and both matrices of a gated one included."""
    return weight.shape[0] * STRIP


def _packed_depth(in_features: int, *, pairs: bool) -> int:
    return -(-in_features // PAIRS_TO) * PAIRS_TO if pairs else in_features


def _strips(weight: Tensor) -> Tensor:
    N, K = weight.shape
    pairs = weight.dtype == torch.bfloat16
    padded = F.pad(weight, (0, _packed_depth(K, pairs=pairs) - K, 0, -N % STRIP))
    strips = padded.unflatten(0, (padded.shape[0] // STRIP, STRIP))
    if pairs:
        strips = strips.unflatten(2, (strips.shape[2] // 2, 2))
    return strips.transpose(1, 2).contiguous()
