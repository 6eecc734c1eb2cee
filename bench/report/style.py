"""How plots look: colours that colour-blind readers tell apart, markers, and figures as PNG and SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.row import Row

INK, MUTED, GRID, PAPER = "#1d2430", "#5c6675", "#dfe3e8", "#ffffff"
FASTER, SLOWER = "#0072b2", "#d55e00"
# Okabe and Ito's colours without black and yellow, of which one is lost on dark paper and one on white; olive, grey.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999933", "#8a8f98")
_FILLED = ("o", "s", "^", "D", "v", "P", "X", "p")
_HOLLOW = ("o", "D", "s", "^", "v", "p", "8", "h")
_CSS = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)", FASTER: "var(--blue)"}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
DPI = 100
_PNG_DPI = 144

matplotlib.rcParams.update(
    {
        "font.size": 9,
        "svg.fonttype": "none",  # letters stay letters: small files, text that can be searched
        "svg.hashsalt": "lynx",  # the same rows give the same file
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": MUTED,
        "axes.facecolor": "none",
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "figure.facecolor": PAPER,
    }
)


@dataclass(frozen=True)
class Style:
    """Colour of every op, marker of every backend and peer: the same in all plots of a report."""

    colours: Mapping[str, str]
    backends: Mapping[str, str]
    peers: Mapping[str, str]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Style:
        rows = list(rows)
        return cls(
            colours=_spread({row.op for row in rows}, _COLOURS),
            backends=_spread({row.backend for row in rows}, _FILLED),
            peers=_spread({row.peer for row in rows if row.speedup}, _HOLLOW),
        )


def _spread(names: set[str], values: tuple[str, ...]) -> dict[str, str]:
    return {name: values[index % len(values)] for index, name in enumerate(sorted(names))}


def bare(axes: Axes) -> None:
    """No box around the plot, a quiet grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0)


def heading(figure: Figure, left: float, title: str, below: str) -> None:
    """Two lines at the top, `left` inches in."""
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - 0.28 / height, title, fontsize=12, fontweight="bold", va="center")
    figure.text(left / width, 1 - 0.5 / height, below, fontsize=8, color=MUTED, va="center")


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """The figure as `name`.png and `name`.svg."""
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    figure.savefig(paths[0], dpi=_PNG_DPI)
    figure.savefig(paths[1], metadata=_NO_METADATA)
    return paths


def inline_svg(figure: Figure, titles: Mapping[str, str], label: str) -> str:
    """The figure for a page: colours by the page's CSS variables, `titles` shown over the artists of that gid."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=_NO_METADATA, transparent=True)
    svg = file.getvalue()
    head = f'role="img" aria-label="{escape(label)}" style="width: {figure.get_figwidth()}in"'
    svg = re.sub(r'^.*?<svg[^>]*?(viewBox="[^"]*")[^>]*>', rf"<svg \1 {head}>", svg, count=1, flags=re.DOTALL)
    for colour, variable in _CSS.items():
        svg = svg.replace(colour, variable)
    for gid, title in titles.items():
        svg = svg.replace(f'<g id="{gid}">', f"<g><title>{escape(title)}</title>", 1)
    return re.sub(r'<g id="[^"]*">', "<g>", svg)
