"""python -m bench.ops: every op x case x backend against its peer, checked, in turn, under this run's ceilings."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.ceilings import Ceilings, doubling, measure_ceilings
from bench.command import run_command
from bench.compare import compare
from bench.jobs import Choice, Job
from bench.peers import peer_names, peers_of
from bench.row import Row, write_rows
from bench.run import measure, rows
from bench.stamp import Stamp
from bench.text import digits, duration, percent
from lynx_engine import set_num_threads
from lynx_engine.errors import LynxError
from lynx_engine.yardstick import yardstick

_HEAD = ("op", "case", "dtype", "mode", "backend", "time", "p90/med", "rate", "ceiling", "x peer")
_WIDTHS = (17, 19, 9, 9, 12, 10, 8, 13, 8, 0)


@dataclass
class Ops:
    """Time the ops of lynx_engine on Lynx's own shapes; no number is printed for a wrong result."""

    op: str | None = None
    """One op, as in lynx_engine.ops; all without it."""
    case: str | None = None
    """Part of a case's name, as "T=72" or "decode"."""
    backend: str = "auto"
    """What `auto` takes, a backend by name, or "all" for every one that this machine runs."""
    peer: str | None = None
    """torch, torch_compile, one of the op's own (as sdpa), none or all; without it the op's strongest quick one."""
    dtype: str | None = None
    """float32 or bfloat16; both without it."""
    mode: Literal["forward", "backward", "both", "all"] = "forward"
    """forward; backward: the gradients alone; both: one after the other, as in training; all: each of these."""
    threads: int | None = None
    """CPU threads of ours and of the peer; without it all that this process may use."""
    device: str = "cpu"
    """cpu or cuda."""
    seconds: float = 0.6
    """Time for the samples of one call."""
    base: str | None = None
    """A revision to compare with: fails where the working tree is slower (see bench/README.md)."""
    json: Path | None = None
    """File to write the rows to."""

    def run(self) -> int:
        choice = Choice(self.op, self.case, self.backend, self.dtype, self.mode, self.device)
        jobs, threads = choice.jobs(), self._threads()
        names = peer_names(job.suite for job in jobs)
        if self.peer is not None and self.peer not in names:
            raise LynxError(f"unknown peer {self.peer!r}; there are: {', '.join(names)}")
        set_num_threads(threads)
        if self.base is not None:
            return compare(self.base, jobs, threads, self.seconds)
        ceilings = measure_ceilings(threads, self.device)
        print(ceilings, *_noise(ceilings), sep="\n", end="\n\n")
        wrong = self._measure_all(jobs, ceilings)
        for fault in wrong:
            print(f"WRONG {fault}", file=sys.stderr)
        return 1 if wrong else 0

    def _measure_all(self, jobs: list[Job], ceilings: Ceilings) -> list[str]:
        """Print and write every row as it comes; what was wrong."""
        stamp = Stamp.of(self.device)
        found: list[Row] = []
        wrong: list[str] = []
        print(_line(_HEAD))
        for job, after in zip(jobs, [*jobs[1:], None], strict=True):
            measured = measure(job, peers_of(job.suite, self.peer or job.suite.rival), seconds=self.seconds)
            made = rows(job, measured, ceilings, stamp)
            wrong += [] if made else [f"{job}: {fault}" for fault in measured.faults]
            for row in made:
                print(_line(_cells(row)), flush=True)
            for fault in measured.faults if made else ():
                print(f"  the peer is wrong here, and not timed: {fault}")
            found += made
            if self.json is not None:
                write_rows(self.json, found)
            if after is None or after.case is not job.case:
                yardstick.cache_clear()  # the truths of large cases are large
        return wrong

    def _threads(self) -> int:
        here = len(os.sched_getaffinity(0))
        if self.threads is not None and not 1 <= self.threads <= here:
            raise LynxError(f"--threads {self.threads}: this process may use 1 to {here}")
        return self.threads or here


def _noise(ceilings: Ceilings) -> list[str]:
    """A warning where two threads do not compute twice as much as one."""
    if ceilings.device != "cpu" or ceilings.threads != 2:
        return []
    warning = doubling(measure_ceilings(1), ceilings)
    return [] if warning is None else [f"NOTE: {warning}"]


def _cells(row: Row) -> tuple[str, ...]:
    rate = f"{digits(row.tflops)} TFLOP/s" if row.bound == "compute" else f"{digits(row.gbps)} GB/s"
    peer = "-" if row.speedup is None else f"{digits(row.speedup)} {row.peer} ({duration(row.peer_median_us or 0)})"
    times = duration(row.median_us), f"{row.p90_us / row.median_us:.2f}"
    return (row.op, row.case, row.dtype, row.mode, row.backend, *times, rate, percent(row.ceiling_fraction), peer)


def _line(cells: tuple[str, ...]) -> str:
    return " ".join(f"{cell:<{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))


if __name__ == "__main__":
    sys.exit(run_command(Ops, "ops"))
