"""Made-up bench rows that look like real ones: Lynx's cases, two backends, the peers torch and sdpa, some noise."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.row import Row

PEAK_TFLOPS = {"bfloat16": 6.2, "float32": 0.42}
BANDWIDTH_GBPS = 29.4
BACKENDS = {"bfloat16": ("cpu_amx", "cpu_avx512"), "float32": ("cpu_avx2", "cpu_avx512")}
# Share of the compute ceiling that a backend or a peer reaches, and microseconds of a call whatever its size.
EFFICIENCY = {"cpu_amx": (0.62, 4.0), "cpu_avx512": (0.12, 4.0), "cpu_avx2": (0.5, 4.0)}
PEERS = {"torch": (0.3, 9.0), "sdpa": (0.34, 14.0)}


def make_row(**changes: Any) -> Row:
    """One row, as a call of 100 us at 40 % of a compute ceiling that is twice as fast as torch."""
    fields = {
        **{"op": "adapter_mlp", "case": "T=72", "dtype": "bfloat16", "mode": "forward"},
        **{"backend": "cpu_amx", "threads": 2, "device": "cpu", "median_us": 100.0, "p10_us": 96.0, "p90_us": 111.0},
        **{"runs": 51, "flops": 248_000_000, "bytes": 36_000_000, "tflops": 2.48, "gbps": 360.0, "bound": "compute"},
        **{"ceiling": 6.2, "ceiling_fraction": 0.4, "peer": "torch", "peer_median_us": 200.0, "speedup": 2.0},
        **{"machine": "Some(R) Processor, 2 cores", "commit": "0123456789ab", "time": "2026-01-02T03:04:05+00:00"},
    }
    return Row(**{**fields, **changes})


@dataclass(frozen=True)
class Call:
    op: str
    case: str
    flops: int
    elements: int


def calls() -> Iterator[Call]:
    """Cases of the sizes that bench.ops measures, some with the same intensity, some with long names."""
    for T in (1, 8, 72, 512, 2048):
        yield Call("adapter_mlp", f"T={T}", 4 * T * 4096 * 2048, 2 * 4096 * (T + 2048))
    for size, batch in ((224, 1), (420, 1), (420, 8)):
        for pixels in ("bytes", "floats"):
            tokens = batch * (size // 14) ** 2
            width = tokens * 588 // (2 if pixels == "bytes" else 1)
            yield Call(
                "patch_embed", f"{pixels} {size} B={batch}", 2 * tokens * 588 * 1408, 1408 * (588 + tokens) + width
            )
    attention = [(f"decode KV={keys} B={batch}", batch, 1, keys, 4096) for keys in (72, 1024) for batch in (1, 8)]
    attention += [(f"prefill {tokens}", 1, tokens, tokens, 4096) for tokens in (72, 288, 1056)]
    attention += [("vit 901 B=1", 1, 901, 901, 1408), ("resampler 901", 1, 32, 901, 512)]
    for name, batch, queries, keys, width in attention:
        yield Call("prefix_attention", name, 4 * batch * width * queries * keys, 2 * batch * width * (queries + keys))


def make_rows(
    *, dtypes: tuple[str, ...] = ("bfloat16",), modes: tuple[str, ...] = ("forward",), threads: tuple[int, ...] = (2,)
) -> list[Row]:
    """A row for every case, two backends a dtype, and peer."""
    noise = random.Random(0)
    return [
        row
        for call in calls()
        for dtype in dtypes
        for mode in modes
        for count in threads
        for backend in BACKENDS[dtype]
        for row in _measured(call, dtype, mode, count, backend, noise)
    ]


def _measured(call: Call, dtype: str, mode: str, threads: int, backend: str, noise: random.Random) -> list[Row]:
    """One measurement, a row for each of its peers."""
    times = {"forward": 1, "backward": 2, "both": 3}[mode]
    flops, size = times * call.flops, times * call.elements * (2 if dtype == "bfloat16" else 4)
    peak, bandwidth = PEAK_TFLOPS[dtype] * threads / 2, BANDWIDTH_GBPS * (0.67 if threads == 1 else 1)
    bound = "compute" if flops / peak / 1e6 > size / bandwidth / 1e3 else "memory"

    def microseconds(efficiency: float, overhead: float) -> float:
        of_peak, of_bandwidth = (min(0.99, share * noise.lognormvariate(0, 0.12)) for share in (efficiency, 0.75))
        return overhead + max(flops / peak / 1e6 / of_peak, size / bandwidth / 1e3 / of_bandwidth)

    ours = microseconds(*EFFICIENCY[backend])
    tflops, gbps = flops / ours / 1e6, size / ours / 1e3
    ceiling = peak if bound == "compute" else bandwidth
    row = make_row(
        **{"op": call.op, "case": call.case, "dtype": dtype, "mode": mode, "backend": backend, "threads": threads},
        **{"median_us": ours, "p10_us": 0.96 * ours, "p90_us": 1.09 * ours, "flops": flops, "bytes": size},
        **{"tflops": tflops, "gbps": gbps, "bound": bound, "ceiling": ceiling},
        ceiling_fraction=(tflops if bound == "compute" else gbps) / ceiling,
    )
    peers = {peer: microseconds(*PEERS[peer]) for peer in PEERS if peer == "torch" or "attention" in call.op}
    return [
        dataclasses.replace(row, peer=peer, peer_median_us=theirs, speedup=theirs / ours)
        for peer, theirs in peers.items()
    ]
