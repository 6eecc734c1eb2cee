"""Made-up bench rows that look like real ones: Lynx's cases, two backends, the peers torch and sdpa, some noise."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import torch

from bench.row import Row
from lynx_engine import ops
from lynx_engine.cases import Case

PEAK_TFLOPS = {"bfloat16": 6.2, "float32": 0.42}
BANDWIDTH_GBPS = 29.4
# Share of the ceiling that a backend or peer reaches, and microseconds that a call of it costs whatever its size.
EFFICIENCY = {"cpu_amx": (0.62, 4.0), "cpu_avx512": (0.12, 4.0), "cpu_avx2": (0.5, 4.0)}
PEERS = {"torch": (0.3, 9.0), "sdpa": (0.34, 14.0)}


def make_row(**changes: Any) -> Row:
    """One row, as a call of 100 us at 40 % of a compute ceiling that is twice as fast as torch."""
    fields = {
        **{"op": "adapter_mlp", "case": "T=72 D=4096 R=2048", "dtype": "bfloat16", "mode": "forward"},
        **{"backend": "cpu_amx", "threads": 2, "device": "cpu", "median_us": 100.0, "p10_us": 96.0, "p90_us": 111.0},
        **{"runs": 51, "flops": 248_000_000, "bytes": 36_000_000, "tflops": 2.48, "gbps": 360.0, "bound": "compute"},
        **{"ceiling": 6.2, "ceiling_fraction": 0.4, "peer": "torch", "peer_median_us": 200.0, "speedup": 2.0},
        **{"machine": "Some(R) Processor, 2 cores", "commit": "0123456789abcdef", "time": "2026-01-02T03:04:05+00:00"},
    }
    return Row(**{**fields, **changes})


def make_rows(
    *, dtypes: tuple[str, ...] = ("bfloat16",), modes: tuple[str, ...] = ("forward",), threads: tuple[int, ...] = (2,)
) -> list[Row]:
    """A row for every op, benchmark case, two backends a dtype, and peer."""
    draw = random.Random(0)
    rows = []
    for suite in ops.suites():
        peers = ("sdpa", "torch") if "attention" in suite.op else ("torch",)
        for case in (case for case in suite.cases if case.bench):
            for dtype in dtypes:
                backends = ("cpu_amx", "cpu_avx512") if dtype == "bfloat16" else ("cpu_avx2", "cpu_avx512")
                for mode in modes:
                    for count in threads:
                        for backend in backends:
                            rows += _measured(suite.op, case, dtype, mode, count, backend, peers, draw)
    return rows


def _measured(
    op: str, case: Case, dtype: str, mode: str, threads: int, backend: str, peers: tuple[str, ...], draw: random.Random
) -> list[Row]:
    flops, size = (2 * case.flops, 2 * case.bytes) if mode == "backward" else (case.flops, case.bytes)
    size *= torch.finfo(getattr(torch, dtype)).bits // 16
    peak, bandwidth = PEAK_TFLOPS[dtype] * threads / 2, BANDWIDTH_GBPS * (0.67 if threads == 1 else 1)
    bound = "compute" if flops / peak / 1e6 > size / bandwidth / 1e3 else "memory"

    def microseconds(efficiency: float, call: float) -> float:
        of_peak, of_bandwidth = (share * draw.lognormvariate(0, 0.12) for share in (efficiency, 0.75))
        return call + max(flops / peak / 1e6 / of_peak, size / bandwidth / 1e3 / of_bandwidth)

    ours = microseconds(*EFFICIENCY[backend])
    tflops, gbps = flops / ours / 1e6, size / ours / 1e3
    ceiling = peak if bound == "compute" else bandwidth
    row = make_row(
        **{"op": op, "case": case.name, "dtype": dtype, "mode": mode, "backend": backend, "threads": threads},
        **{"median_us": ours, "p10_us": 0.96 * ours, "p90_us": 1.09 * ours, "flops": flops, "bytes": size},
        **{"tflops": tflops, "gbps": gbps, "bound": bound, "ceiling": ceiling},
        ceiling_fraction=(tflops if bound == "compute" else gbps) / ceiling,
    )
    times = {peer: microseconds(*PEERS[peer]) for peer in peers}
    return [
        dataclasses.replace(row, peer=peer, peer_median_us=theirs, speedup=theirs / ours)
        for peer, theirs in times.items()
    ]
