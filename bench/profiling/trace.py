"""Running work: under torch.profiler, which writes a trace, or bare, for profilers that look from outside."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from lynx_engine import registry

from .ranges import named, op_ranges
from .work import Work


@dataclass(frozen=True)
class RangeTime:
    """All calls of one range: how many, and microseconds on the CPU or, where there is one, the GPU."""

    name: str
    calls: int
    total_us: float


def record(work: Work, repeat: int, path: Path) -> list[RangeTime]:
    """Every call of `work`, `repeat` times, as a Chrome trace in `path`; the times of the ranges, the longest first."""
    warm_up(work)
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with op_ranges(), profile(activities=activities) as profiler:
        for _ in range(repeat):
            _run_once(work)
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(path))
    op_names = {f"{name} [{backend.name}]" for name, op in registry.ops().items() for backend in op.backends}
    ours = {*work.calls, *work.parts, *op_names}
    times = [
        RangeTime(event.key, event.count, event.device_time_total if on_gpu else event.cpu_time_total)
        for event in profiler.key_averages()
        if event.key in ours
    ]
    return sorted(times, key=lambda time: -time.total_us)


def repeat_while(work: Work, more: Callable[[], bool], *, ranges: bool) -> int:
    """Every call of `work` without torch's profiler, once and then for as long as `more()`; the rounds made.

    ranges: for tools that show them. Without, nothing but the work runs.
    """
    warm_up(work)
    rounds = 0
    with op_ranges() if ranges else nullcontext():
        while rounds == 0 or more():
            _run_once(work, ranges=ranges)
            rounds += 1
    return rounds


def warm_up(work: Work) -> None:
    for call in work.calls.values():
        call()


def _run_once(work: Work, *, ranges: bool = True) -> None:
    for name, call in work.calls.items():
        with named(name) if ranges else nullcontext():
            call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
