"""The speed-up chart: one bar a measurement, from 1 to how many times as fast as its peer it ran."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.row import Row
from bench.text import digits

from .groups import Group, case_key, mode_order
from .style import DPI, FASTER, INK, SLOWER, Style, bare, heading

_LINE, _TOP, _BOTTOM, _WIDTH, _LETTER = 0.2, 0.65, 0.55, 9.5, 0.068  # inches
_STEPS = tuple(2.0**power for power in range(-8, 11))

Line = tuple[str, Row | None]
"""What stands at one height: a row, or a heading, or nothing."""


def speedup(group: Group, style: Style) -> Figure | None:
    """x peer on a logarithmic axis, rows in the order of the roofline's numbers; None if no row has a peer.

    The thin line across a bar's end is what the tenth and ninetieth percentile of our times make of it.
    Bars have the gid of `bar_id`.
    """
    lines = _lines(group)
    if not lines:
        return None
    height = _TOP + _BOTTOM + _LINE * len(lines)
    left = 0.3 + _LETTER * max(len(text) for text, _ in lines)
    width = max(_WIDTH, left + 5)
    figure = Figure(figsize=(width, height), dpi=DPI)
    rectangle = (left / width, _BOTTOM / height, 1 - (left + 0.3) / width, _LINE * len(lines) / height)
    axes = figure.add_axes(rectangle, xscale="log")
    _frame(axes, lines, width - left - 0.3)
    for y, (text, row) in enumerate(lines):
        if row is None:
            _name(axes, y, text, fontsize=9, fontweight="bold", color=style.colours[text.split()[0]] if text else INK)
        else:
            _name(axes, y, text, fontsize=8, color=INK)
            _bar(axes, y, row, bar_id(group.rows.index(row)))
    heading(figure, 0.3, f"Speed-up: {group.title}", group.provenance)
    return figure


def bar_id(index: int) -> str:
    """The gid of the bar of `group.rows[index]`."""
    return f"bar-{index}"


def _lines(group: Group) -> list[Line]:
    """What stands at each height, from the top: a heading for every op, then its rows."""
    rows = [row for row in group.rows if row.speedup and row.peer_median_us]
    lines: list[Line] = []
    op = None
    for row in sorted(rows, key=lambda r: (group.numbers[case_key(r)], mode_order(r), r.backend, r.peer)):
        if row.op != op:
            lines += [("", None)] if lines else []
            lines.append((group.heading(row.op), None))
            op = row.op
        mode = "" if row.mode == "forward" else f" {row.mode}"
        lines.append((f"{group.short(case_key(row))}{mode} · {row.backend}", row))
    return lines


def _frame(axes: Axes, lines: Sequence[Line], width: float) -> None:
    """An axis of `width` inches with 1 marked, and room for the values written beside the bars."""
    axes.set(xlim=_limits([row for _, row in lines if row], width), ylim=(len(lines) - 0.5, -0.5))
    bare(axes)
    axes.spines["left"].set_visible(False)
    axes.grid(False, axis="y")
    axes.xaxis.set_major_locator(FixedLocator(_STEPS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}"))
    axes.set_yticks([])
    axes.set_xlabel("x peer: right of 1 ours is faster")
    axes.axvline(1, color=INK, linewidth=1.2, zorder=4)


def _limits(rows: Sequence[Row], width: float) -> tuple[float, float]:
    """Where the axis begins and ends, so that each value fits between its bar and the axis' end."""
    edges = [(math.log10(_edge(row)), len(_value(row)) * _LETTER + 0.12, _edge(row) >= 1) for row in rows]
    low, high = -0.1, 0.1
    for _ in range(30):  # the room of a text in decades depends on the decades shown: a fixed point
        decades_an_inch = (high - low) / width
        low = min(-0.1, *(edge - room * decades_an_inch for edge, room, right in edges if not right), 0)
        high = max(0.1, *(edge + room * decades_an_inch for edge, room, right in edges if right), 0)
    return 10**low, 10**high


def _edge(row: Row) -> float:
    """Where a bar ends, the line of its percentiles included."""
    assert row.speedup and row.peer_median_us
    if row.speedup >= 1:
        return max(row.speedup, row.peer_median_us / row.p10_us)
    return min(row.speedup, row.peer_median_us / row.p90_us)


def _value(row: Row) -> str:
    return f"{digits(row.speedup or 0)} · {row.peer}"


def _name(axes: Axes, y: int, text: str, **look: Any) -> None:
    """`text` left of the axis, at one height."""
    axes.annotate(
        text,
        (0, y),
        xycoords=("axes fraction", "data"),
        xytext=(-8, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        annotation_clip=False,
        **look,
    )


def _bar(axes: Axes, y: int, row: Row, gid: str) -> None:
    assert row.speedup and row.peer_median_us
    faster = row.speedup >= 1
    axes.barh(y, row.speedup - 1, left=1, height=0.66, color=FASTER if faster else SLOWER, zorder=2, gid=gid)
    ends = (row.peer_median_us / row.p90_us, row.peer_median_us / row.p10_us)
    axes.plot(ends, (y, y), color=INK, linewidth=0.8, zorder=3)
    axes.annotate(
        _value(row),
        (_edge(row), y),
        xytext=(4 if faster else -4, 0),
        textcoords="offset points",
        ha="left" if faster else "right",
        va="center",
        fontsize=8,
        color=INK,
    )
