"""python -m bench.expected: how much faster than torch each op is on machines that were measured, for the gate.

A ratio of two medians of one run survives another machine load, an absolute time does not. It does depend on the
processor, so `expected.json` has a table for each model that was recorded: {machine: {job: [ratio, tolerance]}}.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.command import run_command, write_whole
from bench.jobs import Choice, Job
from bench.measure import Timing
from bench.peers import peers_of
from bench.run import OURS, measure
from bench.stamp import machine
from lynx_engine import set_num_threads
from lynx_engine.errors import LynxError
from lynx_engine.yardstick import yardstick

FILE = Path(__file__).with_name("expected.json")
_MOST_FLOPS, _MOST_BYTES = 3e9, 1e8  # a case takes about a second
_LEAST_TOLERANCE = 0.2

Expected = dict[str, tuple[float, float]]  # ratio and tolerance by job


def watched() -> list[Job]:
    """Of each op and dtype the smallest and the largest of the quick cases, on what `auto` takes."""
    quick: dict[tuple[str, str], list[Job]] = {}
    for job in Choice().jobs():
        if job.case.flops <= _MOST_FLOPS and job.case.work(job.dtype, "forward")[1] < _MOST_BYTES:
            quick.setdefault((job.suite.op, job.dtype_name), []).append(job)
    by_work = [sorted(jobs, key=lambda job: job.case.flops) for jobs in quick.values()]
    return [job for jobs in by_work for job in dict.fromkeys((jobs[0], jobs[-1]))]


def expected(file: Path = FILE) -> Expected:
    """The ratios recorded on this machine's model; empty if there are none."""
    tables = json.loads(file.read_text()) if file.exists() else {}
    return {name: (ratio, tolerance) for name, (ratio, tolerance) in tables.get(model(), {}).items()}


def model() -> str:
    """The processor without the number of its cores: all is measured on one thread."""
    return machine("cpu").rpartition(",")[0]


def ratio(job: Job, *, seconds: float, check: bool = True) -> tuple[float, str]:
    """The rival's median over ours, and the backend that ran. LynxError if our result is wrong."""
    measured = measure(job, peers_of(job.suite, job.suite.rival), seconds=seconds, check=check)
    yardstick.cache_clear()
    if not measured.samples:
        raise LynxError(f"wrong, so not timed: {job}: {measured.faults[0]}")
    ours, rival = (Timing.of(measured.samples[name]).median_us for name in (OURS, job.suite.rival))
    return rival / ours, measured.backend


@dataclass
class Update:
    """Record this machine's ratios in bench/expected.json; the gate is bench/test_regression.py."""

    repeats: int = 5
    """Measurements of each job; the tolerance is three times their spread, at least 20 %."""
    seconds: float = 0.3
    """Time for the samples of one call."""

    def run(self) -> int:
        set_num_threads(1)
        jobs = watched()
        ratios: dict[str, list[float]] = {}
        for repeat in range(self.repeats):
            for job in jobs:
                ratios.setdefault(str(job), []).append(ratio(job, seconds=self.seconds, check=repeat == 0)[0])
        table = {name: _summary(found) for name, found in ratios.items()}
        for name, (middle, tolerance) in table.items():
            print(f"{name:<56} x {middle:.2f}  less {100 * tolerance:.0f} % is an alarm")
        tables = {**(json.loads(FILE.read_text()) if FILE.exists() else {}), model(): table}
        write_whole(FILE, json.dumps(tables, indent=1, sort_keys=True) + "\n")
        return 0


def _summary(found: list[float]) -> tuple[float, float]:
    middle = statistics.median(found)
    spread = (max(found) - min(found)) / middle / 2
    return round(middle, 3), round(max(_LEAST_TOLERANCE, 3 * spread), 2)


if __name__ == "__main__":
    sys.exit(run_command(Update, "expected"))
