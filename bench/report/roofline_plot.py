"""The roofline: what each call reached, under what its machine could give it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator

from bench.row import Row

from .groups import Group, case_key, intensity, peer_tflops
from .labels import Box, around, clusters, place, ranges
from .roof import draw_roof, from_pixels, to_pixels, window
from .style import DPI, INK, MUTED, PAPER, Style, bare, heading

Fill = Literal["full", "left", "bottom", "none"]

# Inches. A plot with many points is larger; the figure grows with the key beside it.
_PLOT, _LARGE_PLOT, _MANY_POINTS = (7.0, 4.9), (9.6, 6.4), 80
_LEFT, _BOTTOM, _TOP, _GAP = 0.75, 0.6, 1.0, 0.35
_KEY_LINE, _KEY_INDENT, _KEY_LETTER = 0.165, 0.26, 0.071
_FILLS: dict[str, Fill] = {"forward": "full", "backward": "left", "both": "bottom"}
_POINT, _NUMBER = 6.5, 7.0  # points of a marker and of a number beside it


def roofline(group: Group, style: Style) -> Figure | None:
    """TFLOP/s against FLOP a byte, under the measured ceilings; None if no row of the group counts both.

    A filled point is one op, case and backend, half filled unless forward; its peer is hollow and joined to it.
    A number beside points is their case, listed in the key. Points have the gid of `point_id`.
    """
    rows = [row for row in group.rows if row.flops and row.bytes]
    if not rows:
        return None
    across, up = _LARGE_PLOT if len({row.key for row in rows}) > _MANY_POINTS else _PLOT
    columns = _key_columns(group, rows, int((up + _BOTTOM) / _KEY_LINE) - 1)
    width, height = _LEFT + across + _GAP + sum(map(_column_width, columns)) + 0.1, _BOTTOM + up + _TOP
    figure = Figure(figsize=(width, height), dpi=DPI)
    rectangle = (_LEFT / width, _BOTTOM / height, across / width, up / height)
    axes = figure.add_axes(rectangle, xscale="log", yscale="log")
    _frame(axes, group, rows)
    ours, peers = _spots(axes, rows)
    taken = draw_roof(axes, group, [*ours, *peers])
    for row in rows:
        _point(axes, row, group.rows.index(row), style)
    _numbers(axes, [group.numbers[case_key(row)] for row in rows], ours, [*peers, *taken])
    heading(figure, _LEFT, f"Roofline: {group.title}", group.provenance)
    _legend(figure, rows, style)
    _key(figure, columns, style, _LEFT + across + _GAP)
    return figure


def point_id(index: int) -> str:
    """The gid of the point of `group.rows[index]`."""
    return f"point-{index}"


def _frame(axes: Axes, group: Group, rows: Sequence[Row]) -> None:
    """Limits that hold all points, the ridge, and the compute ceiling with its label."""
    reached = [row.tflops for row in rows] + [tflops for row in rows if (tflops := peer_tflops(row))]
    across = [intensity(row) for row in rows]
    low, high, top = min(across) / 2, max(across) * 2, max(reached) * 2
    if group.compute:
        top = max(top, group.compute.highest * 1.8)
        if group.memory:
            high = max(high, 3e3 * group.compute.highest / group.memory.highest)
    axes.set(xlim=(low, high), ylim=(min(reached) / 1.8, top))
    axes.set_xlabel("arithmetic intensity, FLOP / byte")
    axes.set_ylabel("TFLOP/s")
    bare(axes)
    for axis in (axes.xaxis, axes.yaxis):
        first, last = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if last / first < 30 else (1,), numticks=12))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()


def _spots(axes: Axes, rows: Sequence[Row]) -> tuple[list[Box], list[Box]]:
    """The pixels of our markers, one a row, and of the peers'."""
    side = (_POINT + 1.5) * DPI / 72
    ours = [(intensity(row), row.tflops) for row in rows]
    peers = [(intensity(row), tflops) for row in rows if (tflops := peer_tflops(row)) is not None]
    boxes = [[Box(*to_pixels(axes, *point), side, side) for point in points] for points in (ours, peers)]
    return boxes[0], boxes[1]


def _point(axes: Axes, row: Row, index: int, style: Style) -> None:
    x, colour = intensity(row), style.colours[row.op]
    if (tflops := peer_tflops(row)) is not None:
        axes.plot([x, x], [tflops, row.tflops], color=colour, linewidth=0.8, alpha=0.55, zorder=3)
        marker = style.peers[row.peer]
        axes.plot([x], [tflops], marker, mfc=PAPER, mec=colour, mew=1.1, markersize=_POINT - 0.5, zorder=4)
    axes.plot(
        [x],
        [row.tflops],
        style.backends[row.backend],
        fillstyle=_FILLS[row.mode],
        mfc=colour,
        mfcalt=PAPER,
        mec=colour,
        mew=1.0,
        markersize=_POINT,
        zorder=6,
        gid=point_id(index),
    )


def _numbers(axes: Axes, numbers: Sequence[int], spots: Sequence[Box], obstacles: Sequence[Box]) -> None:
    """The cases' numbers beside their points, once for points that touch; a thin line where one had to move away."""
    pixel = DPI / 72
    found = clusters(spots, 3 * (_POINT + 1.5) * pixel)
    anchors = [around([spots[i] for i in cluster]) for cluster in found]
    texts = [ranges(numbers[i] for i in cluster) for cluster in found]
    sizes = [(0.62 * _NUMBER * pixel * len(text), 0.9 * _NUMBER * pixel) for text in texts]
    for text, anchor, box in zip(texts, anchors, place(anchors, sizes, obstacles, window(axes)), strict=True):
        far = box.gap(anchor) > 4
        axes.annotate(
            text,
            from_pixels(axes, anchor.x, anchor.y),
            xytext=((box.x - anchor.x) / pixel, (box.y - anchor.y) / pixel),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=_NUMBER,
            color=INK,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6},
            zorder=5,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.5, "shrinkA": 2} if far else None,
        )


def _legend(figure: Figure, rows: Sequence[Row], style: Style) -> None:
    """What the markers mean, in one line above the plot."""
    marks = [_mark(style.backends[name], name, "full") for name in sorted({row.backend for row in rows})]
    peers = sorted({row.peer for row in rows if row.peer_median_us})
    marks += [_mark(style.peers[name], f"peer: {name}", "none") for name in peers]
    modes = {row.mode for row in rows}
    marks += [_mark("o", name, fill) for name, fill in _FILLS.items() if name in modes] if modes != {"forward"} else []
    width, height = figure.get_size_inches()
    figure.legend(
        handles=marks,
        loc="center left",
        bbox_to_anchor=((_LEFT - 0.08) / width, 1 - 0.76 / height),
        ncols=len(marks),
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handletextpad=0.1,
        columnspacing=1.2,
        fontsize=8.5,
    )


def _mark(marker: str, label: str, fill: Fill) -> Line2D:
    """A grey marker for the legend; `fill` is one of _FILLS or none."""
    mark = Line2D([], [], linestyle="", marker=marker, label=label, mfc=MUTED, mfcalt=PAPER, mec=MUTED, markersize=6.5)
    mark.set_fillstyle("full" if fill == "none" else fill)
    mark.set_markerfacecolor(PAPER if fill == "none" else MUTED)
    return mark


KeyLine = tuple[str, int | None, str]
"""Text, number of the case or None for a heading, op."""


def _key_columns(group: Group, rows: Sequence[Row], most: int) -> list[list[KeyLine]]:
    """The cases under their ops, in as few columns of `most` lines as they need, alike in length."""
    shown = {case_key(row) for row in rows}
    lines: list[KeyLine] = []
    for key, number in group.numbers.items():
        if key in shown:
            op = key[0]
            if not lines or lines[-1][2] != op:
                lines.append((group.heading(op), None, op))
            lines.append((group.short(key), number, op))
    count = -(-len(lines) // most)
    each = -(-len(lines) // count)
    return [lines[i : i + each] for i in range(0, len(lines), each)]


def _column_width(column: Sequence[KeyLine]) -> float:
    return 0.2 + max(len(text) * _KEY_LETTER * (1.15 if n is None else 1) + _KEY_INDENT for text, n, _ in column)


def _key(figure: Figure, columns: Sequence[Sequence[KeyLine]], style: Style, x: float) -> None:
    """The columns from `x` inches on, their tops at the plot's."""
    width, height = figure.get_size_inches()
    for column in columns:
        y = height - _TOP
        for text, number, op in column:
            if number is None:
                colour = style.colours[op]
                figure.text(x / width, y / height, text, fontsize=8.5, fontweight="bold", color=colour, va="top")
            else:
                beside = (x + _KEY_INDENT - 0.08) / width
                figure.text(beside, y / height, str(number), fontsize=8, color=MUTED, ha="right", va="top")
                figure.text((x + _KEY_INDENT) / width, y / height, text, fontsize=8, color=INK, va="top")
            y -= _KEY_LINE
        x += _column_width(column)
