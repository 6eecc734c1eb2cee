"""Fails when a CPU kernel runs more instructions than bench/instructions.json says, by 1 % or more.

    python -m bench.instructions             count, compare; exit code 1 and a table on a miss
    python -m bench.instructions --update    count, and write the file
    python -m bench.instructions --base REV  count that revision too, and compare with it: any compiler will do

Counts repeat exactly where times vary by tens of percent, so a small change shows on a busy machine. What is counted is
one call of each kernel of kernels/<op>/cpu_<isa>.cpp at small sizes, on one thread, by the C++ driver in bench/native.

AVX2 kernels are counted by callgrind. Valgrind knows neither AVX-512 nor AMX, so these kernels are counted by the
processor itself: the trap flag stops it after each instruction (bench/native/step.cpp). Both ways agree on AVX2 within
0.2 % (tests/test_bench_instructions.py). AMX kernels are counted on every AVX-512 processor: without AMX the tile
instructions trap and are emulated, and each counts as one. Their number is watched on its own as well.

Counts belong to the compiler that made the code. The file keeps one column a compiler; with a compiler that it does not
know, nothing is compared and the command says so with exit code 0. --base needs no file: it builds both revisions with
this machine's compiler and compares the calls that both have.

An instruction count is no time: bench.ops finds the kernel that misses the cache more often or waits on a divider.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.callgrind import Call, Driver, build_driver
from bench.command import ROOT, finished, run_command, tree_of, write_whole
from lynx_engine.errors import LynxError

TOLERANCE_PERCENT = 1.0
Counts = dict[str, int]


@dataclass(frozen=True)
class Miss:
    """One call whose count is not the recorded one; None where only one of the two exists."""

    kernel: str
    recorded: int | None
    now: int | None

    @property
    def percent(self) -> float | None:
        if self.recorded is None or self.now is None:
            return None
        if self.recorded == 0:
            return math.inf if self.now else 0.0
        return 100.0 * (self.now - self.recorded) / self.recorded


@dataclass
class Instructions:
    """Compare each CPU kernel's instruction count with the recorded one."""

    update: bool = False
    """Write the counts of this compiler to the file."""
    op: str | None = None
    """Only this op's kernels."""
    base: str | None = None
    """Compare with this revision's kernels, built here, and not with the file."""
    file: Path = ROOT / "bench" / "instructions.json"
    """The recorded counts, by compiler."""

    def run(self) -> int:
        if self.base is not None and self.update:
            raise LynxError("--update writes the file and --base reads a revision: choose one")
        driver = build_driver()
        demand_calls_of_every_kernel(driver)
        calls = chosen(driver, self.op)
        if absent := sorted({call.isa for call in calls if not call.runs}):
            print(f"not counted: this processor does not run {', '.join(absent)}")
        calls = [call for call in calls if call.runs]
        if self.base is not None:
            before, now = base_counts(self.base, driver.compiler), driver.counts(calls)
            both = before.keys() & now.keys()
            return report(
                misses({key: before[key] for key in both}, {key: now[key] for key in both}), len(both), self.base
            )
        return self._against_file(driver, calls)

    def _against_file(self, driver: Driver, calls: list[Call]) -> int:
        columns = read_columns(self.file)
        column = columns.get(driver.compiler)
        if column is None and not self.update:
            print(
                f"nothing compared: {self.file.name} has no counts of {driver.compiler} "
                f"(it has: {', '.join(columns) or 'none'}); --update records them"
            )
            return 0
        counted = {(call.op, call.isa) for call in calls}
        before = {key: count for key, count in (column or {}).items() if tuple(key.split()[:2]) in counted}
        now = driver.counts(calls)
        if self.update:
            kept = {key: count for key, count in (column or {}).items() if key not in before}
            write_columns(self.file, {**columns, driver.compiler: kept | now})
            print(f"{self.file.name}: {len(now)} counts of {driver.compiler}")
            return 0
        return report(misses(before, now), len(now), driver.compiler)


def demand_calls_of_every_kernel(driver: Driver) -> None:
    """LynxError where kernels/ has a file of an instruction set that no call of the driver runs."""
    called = {(call.op, call.isa) for call in driver.calls}
    compiled = {call.isa for call in driver.calls}
    for path in sorted(ROOT.glob("kernels/*/cpu_*.cpp")):
        op, isa = path.parent.name, path.stem.removeprefix("cpu_")
        if isa in compiled and (op, isa) not in called:
            raise LynxError(f"{path.relative_to(ROOT)} is not counted: add its calls to bench/native/ops/{op}.cpp")


def chosen(driver: Driver, op: str | None) -> list[Call]:
    """The calls of one op, or of all. LynxError for an op that has none."""
    ops = sorted({call.op for call in driver.calls})
    if op is not None and op not in ops:
        raise LynxError(f"no op {op!r} with CPU kernels; there are {', '.join(ops)}")
    return [call for call in driver.calls if op in (None, call.op)]


def read_columns(path: Path) -> dict[str, Counts]:
    """Compiler -> kernel -> count; nothing where there is no file yet."""
    if not path.is_file():
        return {}
    try:
        columns = json.loads(path.read_text(encoding="utf-8"))
        return {str(compiler): {str(key): int(n) for key, n in counts.items()} for compiler, counts in columns.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise LynxError(f"{path}: cannot be read as instruction counts: {error}") from error


def write_columns(path: Path, columns: dict[str, Counts]) -> None:
    write_whole(path, json.dumps(columns, indent=1, sort_keys=True) + "\n")


def base_counts(revision: str, compiler: str) -> Counts:
    """Counts of a revision's kernels, built with this compiler in a work tree of its own."""
    with tree_of(revision) as tree:
        file = tree / "counts.json"
        finished(sys.executable, "-m", "bench.instructions", "--update", "--file", file, folder=tree)
        columns = read_columns(file)
    if compiler not in columns:
        raise LynxError(f"{revision} was built with {', '.join(columns)}, this work tree with {compiler}")
    return columns[compiler]


def misses(recorded: Counts, now: Counts) -> list[Miss]:
    """Calls that run 1 % more or fewer instructions than recorded, and those that only one side knows.

    Fewer is a miss too: the record must follow, or a later loss of what was won would pass.
    """
    pairs = [Miss(key, recorded.get(key), now.get(key)) for key in sorted(recorded | now)]
    return [pair for pair in pairs if pair.percent is None or abs(pair.percent) >= TOLERANCE_PERCENT]


def report(missed: list[Miss], counted: int, record: str) -> int:
    """Prints what was found; the exit code."""
    if not missed:
        print(f"{counted} instruction counts of CPU kernels are within 1 % of the record ({record})")
        return 0
    table = Table("kernel", "recorded", "now", "percent")
    for miss in missed:
        percent = "" if miss.percent is None else f"{miss.percent:+.1f}"
        recorded, now = ("none" if n is None else f"{n:,}" for n in (miss.recorded, miss.now))
        table.add_row(miss.kernel, recorded, now, percent)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(f"{len(missed)} of {counted} counts miss their record ({record}); --update records a change that is meant")
    return 1


if __name__ == "__main__":
    sys.exit(run_command(Instructions, "instructions"))
