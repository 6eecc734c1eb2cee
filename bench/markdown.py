"""A Markdown table of measured rows, with the commands that made them, machine, commit and date."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.report.groups import mode_order, newest
from bench.row import NO_ADAPTERS, QUANTIZED, Row
from bench.text import digits, duration, percent
from lynx_engine.errors import LynxError

E2E = "e2e/"  # how the op of a whole part begins
_FIELDS = ("op", "case", "dtype", "mode", "backend", "threads", "device", "peer", "machine")


@dataclass(frozen=True)
class Results:
    """One committed file: its path in the repository and its rows."""

    path: str
    rows: tuple[Row, ...]

    def command(self) -> str:
        """What measures these rows again."""
        first, peers = self.rows[0], self._values("peer")
        if first.op.startswith(E2E):
            words = ["bench.e2e", "--preset", first.case.split()[0]]
            words += ["--no-adapters"] if NO_ADAPTERS in first.case.split() else []
        else:
            modes, backends = self._values("mode"), self._values("backend")
            words = ["bench.ops", *(["--op", first.op] if len(self._values("op")) == 1 else [])]
            words += ["--backend", "all" if self._several("backend") else backends[0] if len(backends) == 1 else "auto"]
            words += ["--mode", modes[0] if len(modes) == 1 else "all"]
        words += ["--peer", "all"] if self._several("peer") else ["--peer", peers[0]] if len(peers) == 1 else []
        what = "--quantize" if first.op.startswith(E2E) and first.dtype in QUANTIZED else "--dtype"
        words += [what, first.dtype] if len(self._values("dtype")) == 1 else []
        words += ["--threads", str(first.threads)] if first.device == "cpu" else ["--device", first.device]
        return shlex.join(["python", "-m", *words, "--json", self.path])

    def _several(self, field: str) -> bool:
        """Whether some measurement was made more than once, each time with another value of `field`."""
        calls = {(row.op, row.case, row.dtype, row.mode) for row in self.rows}
        return len({(r.op, r.case, r.dtype, r.mode, getattr(r, field)) for r in self.rows}) > len(calls)

    def _values(self, field: str) -> list[str]:
        return sorted({str(getattr(row, field)) for row in self.rows})


@dataclass(frozen=True)
class _Line:
    """One line of a table: a measurement, once for each of its peers."""

    rows: tuple[Row, ...]

    @property
    def row(self) -> Row:
        return self.rows[0]

    @property
    def work(self) -> str:
        row = self.row
        return f"{digits(row.tflops)} TFLOP/s" if row.bound == "compute" else f"{digits(row.gbps)} GB/s"

    @property
    def against(self) -> str:
        return ", ".join(f"{digits(row.speedup)} {row.peer}" for row in self.rows if row.speedup) or "-"


_COLUMNS: dict[str, Callable[[_Line], str]] = {
    "op": lambda line: f"`{line.row.op}`",
    "case": lambda line: line.row.case,
    "dtype": lambda line: line.row.dtype,
    "mode": lambda line: line.row.mode,
    "threads": lambda line: str(line.row.threads),
    "backend": lambda line: f"`{line.row.backend}`",
    "time": lambda line: duration(line.row.median_us),
    "p90 / median": lambda line: f"{line.row.p90_us / line.row.median_us:.2f}",
    "work": lambda line: line.work,
    "of ceiling": lambda line: f"{percent(line.row.ceiling_fraction)} {line.row.bound}",
    "x peer": lambda line: line.against,
}
_LEFT = ("op", "case", "dtype", "mode", "backend")
_IN_CAPTION = ("op", "dtype", "mode", "threads", "backend")
"""Columns that leave the table for its caption where all lines agree on them."""


def table(name: str, results: Sequence[Results], where: str) -> str:
    """The tables that `name` selects, one a machine; `where` begins the message of a LynxError."""
    lines = _selected(name, results, where)
    blocks = []
    for machine in sorted({line.row.machine for line in lines}):
        mine = [line for line in lines if line.row.machine == machine]
        sources = [r for r in results if any(row in r.rows for line in mine for row in line.rows)]
        blocks.append("\n\n".join((_caption(machine, mine, sources), _grid(mine))))
    return "\n\n".join(blocks)


def _selected(name: str, results: Sequence[Results], where: str) -> list[_Line]:
    """The lines of a table's name: `ops`, `e2e`, or neither, then words as field=value or field=value,value."""
    words = shlex.split(name)
    kind = words.pop(0) if words and "=" not in words[0] else None
    wanted = {field: values.split(",") for field, _, values in (word.partition("=") for word in words)}
    unknown = [field for field in wanted if field not in _FIELDS]
    if kind not in ("ops", "e2e", None) or unknown:
        raise LynxError(f"{where}: a name is `ops` or `e2e` or nothing, then FIELD=VALUE; fields: {', '.join(_FIELDS)}")
    every = newest(row for result in results for row in result.rows)
    rows = [row for row in every if all(str(getattr(row, field)) in values for field, values in wanted.items())]
    if kind is not None:
        rows = [row for row in rows if row.op.startswith(E2E) == (kind == "e2e")]
    if not rows:
        ops = ", ".join(sorted({row.op for row in every})) or "none yet: python -m bench.ops --json FILE writes some"
        raise LynxError(f"{where}: no row of bench/results matches; ops that have rows: {ops}")
    lines: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        lines.setdefault((row.machine, *row.key), []).append(row)
    found = [_Line(tuple(sorted(same, key=lambda row: row.peer))) for same in lines.values()]
    return _in_order(_fastest(found) if kind == "ops" else found)


def _fastest(lines: Sequence[_Line]) -> list[_Line]:
    """Of all backends at one case the fastest."""
    best: dict[tuple[object, ...], _Line] = {}
    for line in lines:
        row = line.row
        key = (row.machine, row.op, row.case, row.dtype, row.mode, row.threads, row.device)
        if key not in best or row.median_us < best[key].row.median_us:
            best[key] = line
    return list(best.values())


def _in_order(lines: Sequence[_Line]) -> list[_Line]:
    """Op by op, forward first, small cases first, the fastest backend first."""

    def order(line: _Line) -> tuple[object, ...]:
        row = line.row
        size = row.flops + row.bytes
        return (row.op, row.dtype, row.threads, mode_order(row), size, row.case, row.median_us)

    return sorted(lines, key=order)


def _caption(machine: str, lines: Sequence[_Line], sources: Sequence[Results]) -> str:
    """Where the numbers come from, and what all of them have in common."""
    rows = [row for line in lines for row in line.rows]
    days = sorted({row.time[:10] for row in rows})
    commits = ", ".join(sorted({row.commit for row in rows}))
    facts = [machine, f"commit {commits}", " to ".join(dict.fromkeys((days[0], days[-1])))]
    facts += [_common(name, lines) for name in _shared(lines)]
    commands = "\n".join(f"    {source.command()}" for source in sources)
    return f"{'; '.join(facts)}.\n\n{commands}"


def _shared(lines: Sequence[_Line]) -> list[str]:
    return [name for name in _IN_CAPTION if len({_COLUMNS[name](line) for line in lines}) == 1]


def _common(name: str, lines: Sequence[_Line]) -> str:
    value = _COLUMNS[name](lines[0])
    return f"{value} thread{'s' if value != '1' else ''}" if name == "threads" else value


def _grid(lines: Sequence[_Line]) -> str:
    names = [name for name in _COLUMNS if name not in _shared(lines)]
    rule = ["---" if name in _LEFT else "---:" for name in names]
    body = [[_COLUMNS[name](line) for name in names] for line in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, rule, *body))
