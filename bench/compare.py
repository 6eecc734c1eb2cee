"""Base against head: two builds, processes in turn, and an alarm only for what is slower twice beyond doubt.

A process of its own for every turn, because what differs between two runs of one program (memory layout, where threads
land) is larger than what differs inside one. A case is slower if the head's process medians are more than 10 % above
the base's at p < 0.01 (exact one-sided permutation test), and again in a second set of turns.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.command import ROOT, finished, tree_of
from bench.jobs import Job
from bench.text import duration
from lynx_engine.errors import LynxError

TURNS = 6  # of each side: 924 ways to deal twelve medians, so p can be as low as 0.001
_SLOWER, _DOUBT = 1.10, 0.01

Medians = dict[str, list[float]]  # by job, one a process, in microseconds


def compare(base: str, jobs: list[Job], threads: int, seconds: float) -> int:
    """Print every job's ratio; 1 if any is slower than at revision `base`, twice."""
    with tree_of(base) as tree:
        _build(base, tree)
        roots = {"base": tree, "head": ROOT}
        medians = _turns(jobs, roots, threads, seconds)
        suspects = [job for job in jobs if _is_slower(medians, str(job))]
        for job in jobs:
            print(_report(medians, str(job)))
        if not suspects:
            return 0
        print(f"again, for the {len(suspects)} that look slower:")
        again = _turns(suspects, roots, threads, seconds)
        for job in suspects:
            print(_report(again, str(job)))
        slower = [job for job in suspects if _is_slower(again, str(job))]
        for job in slower:
            print(f"SLOWER than {base}: {job}", file=sys.stderr)
        return 1 if slower else 0


def _build(base: str, tree: Path) -> None:
    if not (tree / "lynx_engine" / "yardstick.py").is_file():
        raise LynxError(f"{base} is older than bench.ops and cannot be measured by it")
    print(f"building {base} ...", flush=True)
    finished(sys.executable, "setup.py", "build_ext", "--inplace", folder=tree)


def p_value(base: list[float], head: list[float]) -> float:
    """The chance that a random deal of all medians gives the head medians of as high a sum as it has."""
    every = [*base, *head]
    found = sum(head)
    deals = list(itertools.combinations(every, len(head)))
    return sum(sum(deal) >= found for deal in deals) / len(deals)


def _is_slower(medians: dict[str, Medians], name: str) -> bool:
    base, head = medians["base"].get(name), medians["head"][name]
    if base is None:
        return False
    return _ratio(base, head) > _SLOWER and p_value(base, head) < _DOUBT


def _ratio(base: list[float], head: list[float]) -> float:
    return statistics.median(head) / statistics.median(base)


def _report(medians: dict[str, Medians], name: str) -> str:
    base, head = medians["base"].get(name), medians["head"][name]
    if base is None:
        return f"{name:<64} new"
    times = f"{duration(statistics.median(base))} -> {duration(statistics.median(head))}"
    return f"{name:<64} {times:<24} x {_ratio(base, head):.3f}  p = {p_value(base, head):.3f}"


def _turns(jobs: list[Job], roots: dict[str, Path], threads: int, seconds: float) -> dict[str, Medians]:
    """Base, head, head, base, ...: TURNS processes of each."""
    medians: dict[str, Medians] = {side: {} for side in roots}
    for turn in range(TURNS):
        for side in roots if turn % 2 == 0 else reversed(roots):
            check = turn == 0 and side == "head"
            for name, median in _process(jobs, roots[side], threads, seconds, check).items():
                medians[side].setdefault(name, []).append(median)
    return medians


def _process(jobs: list[Job], root: Path, threads: int, seconds: float, check: bool) -> dict[str, float]:
    """One process that takes lynx_engine from `root` and this bench from here; `check`: results before speed."""
    wanted = [(job.suite.op, job.case.name, job.backend, job.dtype_name, job.mode, job.device) for job in jobs]
    request = json.dumps({"jobs": wanted, "threads": threads, "seconds": seconds, "check": check})
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bench").symlink_to(ROOT / "bench")
        process = subprocess.run(
            [sys.executable, "-m", "bench.turn"],
            input=request,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=False,
        )
    if process.returncode != 0:
        raise LynxError(f"a process of {root} failed: {' | '.join(process.stderr.splitlines()[-6:])}")
    medians: dict[str, float] = json.loads(process.stdout)
    return medians
