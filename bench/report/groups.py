"""What one plot shows: the rows of one machine, device, dtype and number of threads, their cases numbered."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.row import Row

CaseKey = tuple[str, str]
"""Op and case: what has one number on a plot, forward and backward alike."""


def newest(rows: Iterable[Row]) -> list[Row]:
    """One row for each measurement and peer: the latest, where files repeat one."""
    latest: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = (row.machine, row.peer, *row.key)
        if key not in latest or latest[key].time <= row.time:
            latest[key] = row
    return list(latest.values())


@dataclass(frozen=True)
class Ceiling:
    """A measured limit, in TFLOP/s or GB/s: the highest that the runs saw, and the lowest, for they differ."""

    highest: float
    lowest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Ceiling | None:
        seen = [value for value in values if value > 0]
        return cls(max(seen), min(seen)) if seen else None


@dataclass(frozen=True)
class Group:
    """Rows that share their ceilings. compute in TFLOP/s, memory in GB/s; None where no row is bound by it."""

    machine: str
    device: str
    dtype: str
    threads: int
    rows: tuple[Row, ...]
    compute: Ceiling | None
    memory: Ceiling | None

    @property
    def title(self) -> str:
        if self.device != "cpu":
            return f"{self.dtype} on GPU"
        return f"{self.dtype} on CPU, {self.threads} thread{'s' if self.threads != 1 else ''}"

    @property
    def provenance(self) -> str:
        """Machine, commits and days of the measurements."""
        days = sorted({row.time[:10] for row in self.rows})
        commits = ", ".join(sorted({row.commit[:10] for row in self.rows}))
        return f"{self.machine} · commit {commits} · {' to '.join(dict.fromkeys((days[0], days[-1])))}"

    @property
    def slug(self) -> str:
        """The title for names of files and anchors; the machine last, for it is long."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", f"{self.device}-{self.dtype}-{self.threads}t-{self.machine}").strip("-")

    @functools.cached_property
    def numbers(self) -> dict[CaseKey, int]:
        """Cases numbered from 1: op by op, from memory-bound to compute-bound, from small to large."""
        rows = sorted(self.rows, key=lambda row: (row.op, mode_order(row), intensity(row), row.flops + row.bytes))
        return {key: number for number, key in enumerate(dict.fromkeys(map(case_key, rows)), start=1)}

    @functools.cached_property
    def shared_words(self) -> dict[str, tuple[str, ...]]:
        """The words that all cases of an op have in common, by op: they need not stand in every label."""
        cases: dict[str, list[list[str]]] = {}
        for op, case in self.numbers:
            cases.setdefault(op, []).append(case.split())
        return {
            op: tuple(word for word in words[0] if all(word in other for other in words)) if len(words) > 1 else ()
            for op, words in cases.items()
        }

    def short(self, key: CaseKey) -> str:
        """The case without the words that its op's heading has."""
        op, case = key
        return " ".join(word for word in case.split() if word not in self.shared_words[op]) or case

    def heading(self, op: str) -> str:
        return " ".join((op, *self.shared_words[op]))


def groups(rows: Sequence[Row]) -> list[Group]:
    """The plots that `rows` make, in the order of their names.

    The compute ceiling belongs to a dtype; the memory ceiling is read from the rows of every dtype of the same
    machine, device and threads.
    """
    found: dict[tuple[str, str, str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row.machine, row.device, row.dtype, row.threads), []).append(row)
    result = []
    for (machine, device, dtype, threads), own in sorted(found.items()):
        near = [row for row in rows if (row.machine, row.device, row.threads) == (machine, device, threads)]
        compute = Ceiling.of(row.ceiling for row in own if row.bound == "compute")
        memory = Ceiling.of(row.ceiling for row in near if row.bound == "memory")
        result.append(Group(machine, device, dtype, threads, tuple(own), compute, memory))
    return result


def case_key(row: Row) -> CaseKey:
    return (row.op, row.case)


def mode_order(row: Row) -> tuple[bool, str]:
    """Forward first, then backward, then both."""
    return (row.mode != "forward", row.mode)


def intensity(row: Row) -> float:
    """FLOP a byte, 0 where either is not counted."""
    return row.flops / row.bytes if row.bytes else 0.0


def peer_tflops(row: Row) -> float | None:
    return row.flops / row.peer_median_us / 1e6 if row.peer_median_us else None
