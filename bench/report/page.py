"""report.html: plots and tables of a set of rows in one file that needs no network."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from bench.row import Row
from bench.text import digits, duration, percent

from .groups import Ceiling, Group, case_key, mode_order
from .roofline_plot import point_id, roofline
from .speedup_plot import bar_id, speedup
from .style import Style, inline_svg

_TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class _Cell:
    """What a table shows, what it sorts by, and what marks it."""

    shown: str
    value: float | str | None = None
    kind: str = ""
    style: str = ""

    def html(self) -> str:
        value = "" if self.value is None else f' data-value="{escape(str(self.value))}"'
        kind = f' class="{self.kind}"' if self.kind else ""
        style = f' style="{self.style}"' if self.style else ""
        return f"<td{kind}{style}{value}>{escape(self.shown)}</td>"


_COLUMNS = (
    ("#", "the case's number in the roofline"),
    ("op", ""),
    ("case", ""),
    ("mode", ""),
    ("backend", ""),
    ("time", "median of one call"),
    ("p10", "tenth percentile over the median"),
    ("p90", "ninetieth percentile over the median"),
    ("TFLOP/s", ""),
    ("GB/s", "what must be read and written at least once, over the median"),
    ("of ceiling", "share that was reached of the ceiling that is the lower one for this call"),
    ("peer", ""),
    ("peer's time", "median of one call"),
    ("x peer", "peer's median over ours"),
)
_TEXT_COLUMNS = ("op", "case", "mode", "backend", "peer")


def page(groups: Sequence[Group], style: Style, command: str) -> str:
    """The whole document; `command` is what made it."""
    template = string.Template(_TEMPLATE.read_text(encoding="utf-8"))
    names = [f"{group.title}" if _one_machine(groups) else f"{group.machine}: {group.title}" for group in groups]
    return template.substitute(
        title="lynx_engine bench report",
        facts="\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _facts(groups, command)),
        ceilings="\n".join(_ceiling_row(name, group) for name, group in zip(names, groups, strict=True)),
        links="".join(f'<a href="#{g.slug}">{escape(name)}</a>' for name, g in zip(names, groups, strict=True)),
        sections="\n".join(_section(name, group, style) for name, group in zip(names, groups, strict=True)),
    )


def _one_machine(groups: Sequence[Group]) -> bool:
    return len({group.machine for group in groups}) == 1


def _facts(groups: Sequence[Group], command: str) -> list[tuple[str, str]]:
    rows = [row for group in groups for row in group.rows]
    times = sorted(row.time for row in rows)
    return [
        ("machine", ", ".join(sorted({row.machine for row in rows}))),
        ("commit", ", ".join(sorted({row.commit for row in rows}))),
        ("measured", " to ".join(dict.fromkeys((times[0], times[-1])))),
        ("made by", command),
    ]


def _ceiling_row(name: str, group: Group) -> str:
    values = [_ceiling(group.compute), _ceiling(group.memory), str(len(group.rows))]
    return f'<tr><td class="text">{escape(name)}</td>' + "".join(f"<td>{value}</td>" for value in values) + "</tr>"


def _ceiling(ceiling: Ceiling | None) -> str:
    if ceiling is None:
        return "no row bound by it"
    return " to ".join(dict.fromkeys((digits(ceiling.lowest), digits(ceiling.highest))))


def _section(name: str, group: Group, style: Style) -> str:
    titles = [_title(row) for row in group.rows]
    parts = [f'<h2 id="{group.slug}">{escape(name)}</h2>']
    for draw, gid, what in ((roofline, point_id, "Roofline"), (speedup, bar_id, "Speed-up")):
        figure = draw(group, style)
        if figure is not None:
            hover = {gid(index): title for index, title in enumerate(titles)}
            svg = inline_svg(figure, hover, f"{what}: {group.title}")
            parts.append(f"<details open><summary>{what}</summary><figure>{svg}</figure></details>")
    return "\n".join([*parts, _table(group)])


def _title(row: Row) -> str:
    """What a marker tells when pointed at."""
    reached = f"{digits(row.tflops)} TFLOP/s, {digits(row.gbps)} GB/s: {percent(row.ceiling_fraction)} of its ceiling"
    beside = f"\n{digits(row.speedup)} x {row.peer}" if row.speedup else ""
    return f"{row.op} {row.mode}, {row.backend}\n{row.case}\n{duration(row.median_us)}, {reached}{beside}"


def _table(group: Group) -> str:
    heads = []
    for name, hint in _COLUMNS:
        kind = ' class="text"' if name in _TEXT_COLUMNS else ""
        heads.append(f'<th{kind} title="{escape(hint or name)}"><button>{escape(name)}</button></th>')
    order = sorted(group.rows, key=lambda row: (group.numbers[case_key(row)], mode_order(row), row.backend))
    body = ["<tr>" + "".join(cell.html() for cell in _cells(group, row)) + "</tr>" for row in order]
    return "\n".join(
        (
            '<div class="scroll"><table class="sortable">',
            f"<thead><tr>{''.join(heads)}</tr></thead>",
            "<tbody>",
            *body,
            "</tbody></table></div>",
        )
    )


def _cells(group: Group, row: Row) -> list[_Cell]:
    share = f"--share: {100 * min(row.ceiling_fraction, 1):.1f}%"
    cells = [_Cell(str(group.numbers[case_key(row)]))]
    cells += [_Cell(text, kind="text") for text in (row.op, row.case, row.mode, row.backend)]
    cells += [
        _Cell(duration(row.median_us), row.median_us),
        *(_Cell(f"{time / row.median_us:.2f}", time / row.median_us) for time in (row.p10_us, row.p90_us)),
        _Cell(digits(row.tflops), row.tflops),
        _Cell(digits(row.gbps), row.gbps),
        _Cell(f"{percent(row.ceiling_fraction)} {row.bound}", row.ceiling_fraction, "share", share),
        _Cell(row.peer, kind="text"),
    ]
    if row.speedup and row.peer_median_us:
        faster = "faster" if row.speedup >= 1 else "slower"
        peer = [_Cell(duration(row.peer_median_us), row.peer_median_us)]
        return [*cells, *peer, _Cell(digits(row.speedup), row.speedup, faster)]
    return [*cells, _Cell("", ""), _Cell("", "")]
