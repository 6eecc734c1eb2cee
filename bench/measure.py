"""Timing: ours and the peer in turn, in one process, over inputs that do not stay in the caches; medians."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Call = Callable[[int], object]
T = TypeVar("T")

_MAX_COPIES = 256
_COLD_GPU_BYTES = 256 << 20


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call: the median, and the tenth and ninetieth percentile, of `runs` samples."""

    median_us: float
    p10_us: float
    p90_us: float
    runs: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        p10, median, p90 = np.percentile(np.array(seconds) * 1e6, (10, 50, 90))
        return cls(float(median), float(p10), float(p90), len(seconds))


def interleaved(
    calls: Mapping[str, Call], *, seconds: float = 1.0, min_runs: int = 7, max_runs: int = 2000, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of every sample of every call, taken in turn: A B C, C B A, ..., so that drift meets all alike.

    A call gets the number of its round, to rotate its inputs by. Each runs twice before the clock starts. Rounds end
    after `seconds` a call, but not before `min_runs`. A sample is one call, however short: a call of 5 us is measured
    with the 0.1 us that reading the clock costs.
    """
    clock = _cuda_seconds if device == "cuda" else _cpu_seconds
    for call in calls.values():
        call(0)
        call(1)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    until = time.perf_counter() + seconds * len(calls)
    for number in range(max_runs):
        for name in order if number % 2 == 0 else reversed(order):
            samples[name].append(clock(calls[name], number))
        if number + 1 >= min_runs and time.perf_counter() > until:
            break
    return samples


def _cpu_seconds(call: Call, number: int) -> float:
    begin = time.perf_counter()
    call(number)
    return time.perf_counter() - begin


def _cuda_seconds(call: Call, number: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call(number)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def copies_past_caches(bytes_each: int, device: str = "cpu", *, most_bytes: int = 3 << 30) -> int:
    """How many copies of an input of `bytes_each` it takes so that none is still in a cache when its turn comes.

    Four times the last-level cache (GPU: 256 MiB, several times any L2), within `most_bytes` and 256 copies.
    """
    wanted = _COLD_GPU_BYTES if device == "cuda" else 4 * last_level_cache_bytes()
    each = max(bytes_each, 1)
    return max(1, min(-(-wanted // each) + 1, most_bytes // each, _MAX_COPIES))


def last_level_cache_bytes() -> int:
    """Size of the largest cache of processor 0; 32 MiB where the system does not tell."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KM")) * unit)
    return max(sizes, default=32 << 20)


def copied(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same call on memory of its own."""
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in arguments.items()}


def bytes_of(arguments: Mapping[str, Any]) -> int:
    return sum(value.nbytes for value in arguments.values() if isinstance(value, Tensor))


def in_turn(prepared: list[Callable[[], T]]) -> Callable[[int], T]:
    """A call that takes the next of `prepared` in every round."""
    return lambda number: prepared[number % len(prepared)]()
