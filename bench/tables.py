"""`python -m bench.tables`: the numbers of the READMEs, written from the committed rows of bench/results."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.command import ROOT, run_command, write_whole
from bench.markdown import Results, table
from bench.row import read_rows
from lynx_engine.errors import LynxError

DOCUMENTS = ("README.md", "bench/README.md", "kernels/*/README.md")
_MARKED = re.compile(
    r"^<!-- bench:begin (?P<name>.+?) -->\n(?P<body>.*?)^<!-- bench:end (?P<end>.+?) -->$", re.MULTILINE | re.DOTALL
)
_MARKER = re.compile(r"^<!-- bench:(?:begin|end) ", re.MULTILINE)


@dataclass
class Tables:
    """Write the tables between `bench:begin NAME` and `bench:end NAME` from bench/results/<machine>/*.json.

    NAME says which rows: `ops` (the fastest backend of every case), `e2e`, or fields as in `op=adapter_mlp
    mode=forward,both`, which may also follow `ops` or `e2e`.
    """

    check: bool = False
    """Write nothing; end with 1 and name each file that would change."""
    root: Path = ROOT
    """The checkout."""

    def run(self) -> int:
        changed = filled(self.root)
        for path, text in changed.items():
            if self.check:
                print(f"{path.relative_to(self.root)}: tables differ from bench/results: run make bench-readme")
            else:
                write_whole(path, text)
                print(f"{path.relative_to(self.root)}: tables written")
        return 1 if self.check and changed else 0


def filled(root: Path) -> dict[Path, str]:
    """The documents whose tables are not what the committed rows give, with the text that they should have."""
    results = committed(root)
    changed = {}
    for path in sorted(path for pattern in DOCUMENTS for path in root.glob(pattern)):
        old = path.read_text(encoding="utf-8")
        new = fill(old, results, str(path.relative_to(root)))
        if new != old:
            changed[path] = new
    return changed


def committed(root: Path) -> list[Results]:
    """Every file of rows under bench/results."""
    files = sorted(root.glob("bench/results/*/*.json"))
    return [Results(file.relative_to(root).as_posix(), tuple(read_rows(file))) for file in files]


def fill(text: str, results: Sequence[Results], where: str) -> str:
    """`text` with every table made anew. LynxError for markers without their partners and for unknown names."""

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if match["end"] != name or _MARKER.search(match["body"]):
            raise LynxError(f"{where}: bench:begin {name} is not followed by its bench:end")
        if not results and not match["body"].strip():
            return match[0]  # a place kept for the first results
        body = table(name, results, f"{where}: table {name!r}")
        return f"<!-- bench:begin {name} -->\n{body}\n<!-- bench:end {name} -->"

    new = _MARKED.sub(replace, text)
    if len(_MARKER.findall(new)) != 2 * len(_MARKED.findall(new)):
        raise LynxError(f"{where}: a bench:begin or bench:end has no partner")
    return new


if __name__ == "__main__":
    sys.exit(run_command(Tables, "tables"))
