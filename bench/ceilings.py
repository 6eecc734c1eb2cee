"""What this machine can compute and move at most, measured in the run whose results are held against it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.measure import last_level_cache_bytes
from lynx_engine import native
from lynx_engine.errors import LynxError

_GPU_GEMM = 8192


@dataclass(frozen=True)
class Ceilings:
    """tflops: the peak of each dtype by name ("float32", "bfloat16", "int8"), from the fastest instruction set.

    peaks: each instruction set's own, by "isa dtype". read_gbps, copy_gbps: from memory, and read plus written.
    """

    device: str
    threads: int
    tflops: dict[str, float]
    peaks: dict[str, float]
    read_gbps: float
    copy_gbps: float

    def floor_us(self, dtype: str, flops: int, bytes_: int) -> tuple[float, str]:
        """The least time of a call in microseconds, and what sets it: "compute" or "memory"."""
        compute = flops / self._peak(dtype) / 1e6
        memory = bytes_ / self.read_gbps / 1e3
        return (compute, "compute") if compute >= memory else (memory, "memory")

    def of(self, dtype: str, bound: str) -> float:
        """The ceiling in TFLOP/s for "compute", in GB/s for "memory"."""
        return self._peak(dtype) if bound == "compute" else self.read_gbps

    def _peak(self, dtype: str) -> float:
        if dtype not in self.tflops:
            raise LynxError(f"no ceiling was measured for {dtype}; measured: {', '.join(self.tflops)}")
        return self.tflops[dtype]

    def __str__(self) -> str:
        peaks = ", ".join(f"{name} {value:.3g}" for name, value in self.peaks.items())
        return (
            f"ceilings of {self.device}, {self.threads} thread(s): {peaks} TFLOP/s;"
            f" read {self.read_gbps:.1f}, copy {self.copy_gbps:.1f} GB/s"
        )


def measure_ceilings(threads: int, device: str = "cpu", *, seconds: float = 0.15) -> Ceilings:
    """Probe the machine with `threads` CPU threads, or a GPU; about two seconds."""
    return _gpu_ceilings() if device == "cuda" else _cpu_ceilings(threads, seconds)


def doubling(one: Ceilings, two: Ceilings) -> str | None:
    """A warning if two threads do not reach about twice the peak of one: then something else uses this machine."""
    ratio = two.tflops["float32"] / one.tflops["float32"]
    if ratio > 1.8:
        return None
    return f"two threads reach {ratio:.2f} times the peak of one: another process is active, repeat on a quiet machine"


def _cpu_ceilings(threads: int, seconds: float) -> Ceilings:
    compiled = native.module()
    if compiled is None:
        raise LynxError("the ceilings are measured by lynx_engine._C, which is not built: make build")
    before = native.get_num_threads()
    native.set_num_threads(threads)
    try:
        peaks = {name: rate / 1e12 for name, rate in compiled.peaks(seconds).items()}
        source = torch.zeros(max(1 << 30, 4 * last_level_cache_bytes()), dtype=torch.uint8)
        target = torch.zeros_like(source)
        read = max(compiled.read_rate(source) for _ in range(3))
        copy = max(compiled.copy_rate(source, target) for _ in range(3))
    finally:
        native.set_num_threads(before)
    best: dict[str, float] = {}
    for name, rate in peaks.items():
        dtype = name.split()[1]
        best[dtype] = max(best.get(dtype, 0.0), rate)
    for narrow in ("bfloat16", "int8"):  # widened, where nothing multiplies them
        best[narrow] = max(best["float32"], best.get(narrow, 0.0))
    return Ceilings("cpu", threads, best, peaks, read / 1e9, copy / 1e9)


def _gpu_ceilings() -> Ceilings:
    peaks = {name: _gemm_tflops(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    rate = 2 * source.nbytes / _gpu_seconds(lambda: target.copy_(source)) / 1e9
    return Ceilings("cuda", 0, peaks, {f"gemm {name}": value for name, value in peaks.items()}, rate, rate)


def _gemm_tflops(dtype: torch.dtype) -> float:
    a, b = (torch.randn(_GPU_GEMM, _GPU_GEMM, device="cuda").to(dtype) for _ in range(2))
    return 2 * _GPU_GEMM**3 / _gpu_seconds(lambda: a @ b) / 1e12


def _gpu_seconds(call: Callable[[], object], runs: int = 10) -> float:
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(runs):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / runs
