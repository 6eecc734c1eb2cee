"""How the bench writes numbers: three significant digits, the unit that fits."""

from __future__ import annotations

import math


def digits(value: float) -> str:
    """Three significant digits and no exponent: 0.00123, 1.23, 123, 1230 as it is."""
    places = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{max(places, 0)}f}"


def duration(microseconds: float) -> str:
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if microseconds >= size:
            return f"{digits(microseconds / size)} {unit}"
    return f"{digits(microseconds)} us"


def percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"
