"""The roof of a roofline plot: the measured ceilings as lines, each with its value along it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from bench.text import digits

from .groups import Ceiling, Group
from .labels import XY, Box
from .style import INK, MUTED

_LETTER = 6.4  # pixels of width, at 8.5 points and 100 dots an inch


def draw_roof(axes: Axes, group: Group, points: Sequence[Box]) -> list[Box]:
    """Lines for the ceilings that the group has, labelled where no point is; the pixels that they take.

    Where runs measured different ceilings, the line is the highest and a band reaches down to the lowest.
    """
    low, high = axes.get_xlim()
    compute, memory = group.compute, group.memory
    ridge = 1e3 * compute.highest / memory.highest if compute and memory else None
    taken: list[Box] = []
    if memory:
        xs = (low, ridge or high)
        line = _line(axes, xs, *([value * x / 1e3 for x in xs] for value in (memory.highest, memory.lowest)))
        taken += _path(line, 4) + _label(axes, line, _value(memory, "GB/s"), points)
    if compute:
        xs = (ridge or low, high)
        line = _line(axes, xs, [compute.highest] * 2, [compute.lowest] * 2)
        taken += _path(line, 4) + _label(axes, line[::-1], _value(compute, f"TFLOP/s {group.dtype}"), points)
    return taken


def window(axes: Axes) -> Box:
    """The plot's area in pixels."""
    box = axes.bbox
    return Box(box.x0 + box.width / 2, box.y0 + box.height / 2, box.width, box.height)


def to_pixels(axes: Axes, x: float, y: float) -> XY:
    across, up = axes.transData.transform((x, y))
    return float(across), float(up)


def from_pixels(axes: Axes, across: float, up: float) -> XY:
    x, y = axes.transData.inverted().transform((across, up))
    return float(x), float(y)


def _value(ceiling: Ceiling, unit: str) -> str:
    lowest, highest = digits(ceiling.lowest), digits(ceiling.highest)
    return f"{highest} {unit}" if lowest == highest else f"{lowest} to {highest} {unit}"


def _line(axes: Axes, xs: XY, highest: Sequence[float], lowest: Sequence[float]) -> tuple[XY, XY]:
    """Draws a ceiling; its two ends in pixels."""
    axes.plot(xs, highest, color=INK, linewidth=1.4, solid_capstyle="round", zorder=2)
    axes.fill_between(xs, lowest, highest, color=MUTED, alpha=0.25, linewidth=0, zorder=1)
    return to_pixels(axes, xs[0], highest[0]), to_pixels(axes, xs[1], highest[1])


def _path(line: tuple[XY, XY], size: float) -> list[Box]:
    """Boxes along a line that does not run along an axis: the one box around it would hold half the plot."""
    (x0, y0), (x1, y1) = line
    steps = max(1, int(math.dist(*line) / size))
    return [Box(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps, size, size) for i in range(steps + 1)]


def _label(axes: Axes, line: tuple[XY, XY], text: str, points: Sequence[Box]) -> list[Box]:
    """Writes `text` above the line, as near its first end as there is room; the pixels that the text takes."""
    (x0, y0), (x1, y1) = line
    backwards = x1 < x0
    angle = math.atan2(y0 - y1, x0 - x1) if backwards else math.atan2(y1 - y0, x1 - x0)
    length, half = _LETTER * len(text), 7.0
    across, up = (x1 - x0) / math.dist(*line), (y1 - y0) / math.dist(*line)
    lift = (-math.sin(angle) * (half + 3), math.cos(angle) * (half + 3))
    places = []
    for begin in range(6, max(7, int(math.dist(*line) - length)), 8):
        first, last = ((x0 + across * along + lift[0], y0 + up * along + lift[1]) for along in (begin, begin + length))
        places.append((first, last))
    fits = [place for place in places if all(box.inside(window(axes)) for box in _path(place, half * 2))]
    free = [place for place in fits if not any(b.touches(p) for b in _path(place, half * 2) for p in points)]
    first, last = next(iter(free or fits or places))
    axes.annotate(
        text,
        from_pixels(axes, (first[0] + last[0]) / 2, (first[1] + last[1]) / 2),
        ha="center",
        va="center_baseline",
        rotation=math.degrees(angle),
        rotation_mode="anchor",
        fontsize=8.5,
        color=INK,
        zorder=5,
    )
    return _path((first, last), half * 2)
