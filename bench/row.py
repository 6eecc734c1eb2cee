"""One measured call as a JSON row: what bench.ops writes, and what the tables, plots and gates read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.command import write_whole
from lynx_engine.errors import LynxError

NO_ADAPTERS = "no-adapters"
"""Word in the case of a whole part that was measured without Lynx's adapters."""
QUANTIZED = ("int8", "int4")
"""dtype of a whole part whose linears have so many bits; all else is bfloat16."""


@dataclass(frozen=True)
class Row:
    """One op x case x dtype x mode x backend, beside its peer in the same run.

    Times in microseconds, of one call. flops, bytes: what the call must compute, and read and write at least once.
    tflops, gbps: these over the median. bound: which ceiling is the lower one for this call, "compute" or "memory";
    ceiling: that ceiling, measured in the same run, in TFLOP/s or GB/s; ceiling_fraction: the share of it reached.
    peer: its name, "none" without one; speedup: peer's median over ours. time: UTC, ISO 8601.
    """

    op: str
    case: str
    dtype: str
    mode: str
    backend: str
    threads: int
    device: str
    median_us: float
    p10_us: float
    p90_us: float
    runs: int
    flops: int
    bytes: int
    tflops: float
    gbps: float
    bound: str
    ceiling: float
    ceiling_fraction: float
    peer: str
    peer_median_us: float | None
    speedup: float | None
    machine: str
    commit: str
    time: str

    @property
    def key(self) -> tuple[str, ...]:
        """What names a measurement: two runs are compared where these agree."""
        return (self.op, self.case, self.dtype, self.mode, self.backend, str(self.threads), self.device)


_FIELDS = {field.name for field in dataclasses.fields(Row)}


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """A JSON list, one row a line."""
    write_whole(path, "[\n" + ",\n".join(json.dumps(dataclasses.asdict(row)) for row in rows) + "\n]\n")


def read_rows(path: Path) -> list[Row]:
    """The rows of a file that `write_rows` wrote. LynxError if it is something else."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LynxError(f"{path}: cannot be read as bench rows: {error}") from error
    if not isinstance(entries, list):
        raise LynxError(f"{path}: wanted a list of rows, got {type(entries).__name__}")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or set(entry) != _FIELDS:
            wrong = sorted(set(entry) ^ _FIELDS) if isinstance(entry, dict) else type(entry).__name__
            raise LynxError(f"{path}: row {number} has not the fields of a bench row: {wrong}")
    return [Row(**entry) for entry in entries]
