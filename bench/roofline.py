"""`python -m bench.roofline FILE.json...`: roofline plots, speed-up charts and report.html from bench rows."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from bench.command import run_command
from bench.row import Row, read_rows
from lynx_engine.errors import LynxError


@dataclass
class Roofline:
    """Draw what `python -m bench.ops --json FILE.json` measured.

    Writes a roofline plot and a speed-up chart for every device, dtype and number of threads, as PNG and SVG, and
    report.html, which holds them all with sortable tables and needs no network.
    """

    files: Positional[tuple[Path, ...]] = ()
    """Files of rows. Where two measured the same thing, the newer row counts."""
    out: Path = Path("runs/report")
    """Folder to write."""

    def run(self) -> int:
        if not self.files:
            raise LynxError("which rows? python -m bench.roofline FILE.json... reads what bench.ops --json writes")
        rows = [row for file in self.files for row in read_rows(file)]
        if not rows:
            raise LynxError(f"{', '.join(map(str, self.files))}: no rows in there, so nothing to draw")
        command = shlex.join(["python", "-m", "bench.roofline", *map(str, self.files)])
        for path in draw(rows, self.out, command):
            print(path)
        return 0


def draw(rows: list[Row], folder: Path, command: str) -> list[Path]:
    """Write everything that `rows` show into `folder`; the files written, report.html last."""
    if importlib.util.find_spec("matplotlib") is None:
        raise LynxError("drawing needs matplotlib, which is not installed: pip install matplotlib")
    from bench.report.groups import groups, newest
    from bench.report.page import page
    from bench.report.roofline_plot import roofline
    from bench.report.speedup_plot import speedup
    from bench.report.style import Style, save

    rows = newest(rows)
    style, found, paths = Style.of(rows), groups(rows), []
    folder.mkdir(parents=True, exist_ok=True)
    for group in found:
        for name, plot in (("roofline", roofline), ("speedup", speedup)):
            figure = plot(group, style)
            if figure is not None:
                paths += save(figure, folder, f"{name}-{group.slug}")
    report = folder / "report.html"
    report.write_text(page(found, style, command), encoding="utf-8")
    return [*paths, report]


if __name__ == "__main__":
    sys.exit(run_command(Roofline, "roofline"))
