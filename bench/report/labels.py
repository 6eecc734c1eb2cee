"""Where labels go: beside their points, and on nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

XY = tuple[float, float]

_RADII = (0.0, 5.0, 10.0, 16.0, 24.0, 34.0, 46.0, 60.0, 76.0)
_DEGREES = (0, 180, 30, 150, -30, -150, 60, 120, -60, -120, 90, -90)


@dataclass(frozen=True)
class Box:
    """A rectangle by its centre, in pixels."""

    x: float
    y: float
    width: float
    height: float

    def touches(self, other: Box) -> bool:
        return self.gap(other) < 0

    def inside(self, other: Box) -> bool:
        return (
            2 * abs(self.x - other.x) <= other.width - self.width
            and 2 * abs(self.y - other.y) <= other.height - self.height
        )

    def gap(self, other: Box) -> float:
        """Pixels between the nearest edges; negative where the boxes overlap."""
        across = abs(self.x - other.x) - (self.width + other.width) / 2
        up = abs(self.y - other.y) - (self.height + other.height) / 2
        return max(across, up)


def clusters(boxes: Sequence[Box], widest: float) -> list[list[int]]:
    """Boxes that hang together, by index: those that touch, as long as the box around them is not over `widest`."""
    found: list[list[int]] = []
    for index in sorted(range(len(boxes)), key=lambda i: (boxes[i].x, boxes[i].y)):
        for cluster in found:
            together = around([boxes[index], *(boxes[other] for other in cluster)])
            near = any(boxes[index].touches(boxes[other]) for other in cluster)
            if near and max(together.width, together.height) <= widest:
                cluster.append(index)
                break
        else:
            found.append([index])
    return found


def around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all of `boxes`."""
    left, right = min(b.x - b.width / 2 for b in boxes), max(b.x + b.width / 2 for b in boxes)
    low, high = min(b.y - b.height / 2 for b in boxes), max(b.y + b.height / 2 for b in boxes)
    return Box((left + right) / 2, (low + high) / 2, right - left, high - low)


def ranges(numbers: Iterable[int]) -> str:
    """1, 3, 4, 5 as "1, 3-5"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def place(anchors: Sequence[Box], sizes: Sequence[XY], obstacles: Iterable[Box], frame: Box) -> list[Box]:
    """A box of each size near each anchor, which touches no anchor, obstacle or other label and stays in the frame.

    Greedy, nearest place first, sides before corners. Where nothing within reach is free, the label goes to the right.
    """
    taken = [*anchors, *obstacles]
    placed = []
    for anchor, size in zip(anchors, sizes, strict=True):
        free = (box for box in _candidates(anchor, size) if box.inside(frame) and not any(map(box.touches, taken)))
        box = next(free, next(_candidates(anchor, size)))
        taken.append(box)
        placed.append(box)
    return placed


def _candidates(anchor: Box, size: XY) -> Iterator[Box]:
    width, height = size
    for radius in _RADII:
        for degrees in _DEGREES:
            across, up = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            x = anchor.x + across * (radius + 2.5 + (anchor.width + width) / 2)
            y = anchor.y + up * (radius + 2.5 + (anchor.height + height) / 2)
            yield Box(x, y, width, height)
