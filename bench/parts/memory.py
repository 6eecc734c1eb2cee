"""Peak memory of a call.

On the CPU it is the resident set of the whole process: the weights, Python and torch are in it, and whatever an earlier
part left. Linux keeps the peak (VmHWM) and forgets it on request; where it does not, there is no number.
On a GPU it is what torch's allocator held at most, weights included.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"


def with_peak(call: Callable[[], T], device: str) -> tuple[T, int | None]:
    """The result of `call`, and the peak in bytes while it ran; None where the system does not tell."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        result = call()
        torch.cuda.synchronize()
        return result, torch.cuda.max_memory_allocated()
    try:
        _CLEAR.write_text(_FORGET_PEAK)
    except OSError:
        return call(), None
    result = call()
    return result, _resident_peak()


def _resident_peak() -> int | None:
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return None
