"""Writing safetensors files tensor by tensor, so that a model larger than memory can be converted."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .fit import Shape

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.uint8: "U8"}
_ALIGNMENT = 64

Progress = Callable[[str, int, int], None]
"""Called as progress(name of the tensor just written, bytes written, bytes in all)."""


@dataclass(frozen=True)
class Shard:
    """One file to be: its tensors in the order of writing, and where each begins in the data section."""

    file_name: str
    dtypes: Mapping[str, torch.dtype]
    shapes: Mapping[str, Shape]
    offsets: Mapping[str, int]

    @classmethod
    def of(cls, file_name: str, dtypes: Mapping[str, torch.dtype], shapes: Mapping[str, Shape]) -> Shard:
        """Tensors whose size is a multiple of 64 bytes come first in the file, and so are aligned when mapped."""
        sizes = {name: _num_bytes(shape, dtypes[name]) for name, shape in shapes.items()}
        offsets, begin = {}, 0
        for name in sorted(sizes, key=lambda name: sizes[name] % _ALIGNMENT != 0):
            offsets[name] = begin
            begin += sizes[name]
        return cls(file_name, {name: dtypes[name] for name in shapes}, shapes, offsets)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    @property
    def num_bytes(self) -> int:
        return sum(_num_bytes(shape, self.dtypes[name]) for name, shape in self.shapes.items())

    def header(self) -> bytes:
        """Length and JSON header, padded so that the data section starts on a multiple of 64 bytes."""
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        for name, begin in self.offsets.items():
            shape = self.shapes[name]
            end = begin + _num_bytes(shape, self.dtypes[name])
            entries[name] = {
                "dtype": _DTYPE_NAMES[self.dtypes[name]],
                "shape": list(shape),
                "data_offsets": [begin, end],
            }
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % _ALIGNMENT)
        return len(text).to_bytes(8, "little") + text


def plan_shards(shapes: Mapping[str, Shape], dtypes: Mapping[str, torch.dtype], max_bytes: int) -> list[Shard]:
    """Cut `shapes` in its order into shards of at most `max_bytes` (a larger tensor gets a shard of its own)."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = _num_bytes(shape, dtypes[name])
        if groups[-1] and filled + size > max_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return [
        Shard.of(f"model-{i:05d}-of-{len(groups):05d}.safetensors", dtypes, {name: shapes[name] for name in group})
        for i, group in enumerate(groups, start=1)
    ]


def write_shards(
    paths: Sequence[Path], shards: Sequence[Shard], tensors: Iterable[tuple[str, Tensor]], progress: Progress | None
) -> None:
    """Write `shards` to `paths` from `tensors`, which yields them in order; each file is synced to disk."""
    stream = iter(tensors)
    done, total = 0, sum(shard.num_bytes for shard in shards)
    for path, shard in zip(paths, shards, strict=True):
        with open(path, "wb") as file:
            header = shard.header()
            file.write(header)
            for wanted in shard.names:
                name, tensor = next(stream)
                got = (name, tuple(tensor.shape), tensor.dtype)
                assert got == (wanted, shard.shapes[wanted], shard.dtypes[wanted]), got
                file.seek(len(header) + shard.offsets[name])
                file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
                done += tensor.nbytes
                if progress is not None:
                    progress(name, done, total)
            file.flush()
            os.fsync(file.fileno())


def _num_bytes(shape: Shape, dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize
