"""bench.roofline: what is drawn from rows, that labels keep clear, and that report.html stands alone."""

from __future__ import annotations

import dataclasses
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from bench_rows import BANDWIDTH_GBPS, PEAK_TFLOPS, make_row, make_rows

from bench.command import run_command
from bench.report.groups import Ceiling, groups, newest
from bench.report.labels import Box, around, clusters, place, ranges
from bench.roofline import Roofline
from bench.row import Row, write_rows
from bench.text import digits, duration

VOID = {"meta", "input", "br", "link", "img"}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bench.roofline", *map(str, arguments)])
    return run_command(Roofline, "roofline")


def test_a_group_is_a_machine_a_device_a_dtype_and_a_number_of_threads() -> None:
    rows = make_rows(dtypes=("bfloat16", "float32"), threads=(1, 2))
    found = groups([*rows, dataclasses.replace(rows[0], machine="another")])
    assert len({group.slug for group in found}) == len(found) == 5
    assert sum(len(group.rows) for group in found) == len(rows) + 1


def test_ceilings_come_from_the_rows() -> None:
    both = next(group for group in groups(make_rows()) if group.dtype == "bfloat16")
    assert both.compute == Ceiling(PEAK_TFLOPS["bfloat16"], PEAK_TFLOPS["bfloat16"])
    assert both.memory == Ceiling(BANDWIDTH_GBPS, BANDWIDTH_GBPS)
    (alone,) = groups([make_row(ceiling=5.0), make_row(ceiling=6.0, case="T=512")])
    assert (alone.compute, alone.memory) == (Ceiling(6.0, 5.0), None)


def test_bandwidth_does_not_depend_on_the_dtype() -> None:
    found = groups([make_row(), make_row(dtype="float32", bound="memory", ceiling=29.0)])
    assert [(group.dtype, bool(group.compute), bool(group.memory)) for group in found] == [
        ("bfloat16", True, True),
        ("float32", False, True),
    ]


def test_the_newer_of_two_measurements_counts() -> None:
    old, new = make_row(median_us=90.0), make_row(median_us=80.0, time="2026-01-03T00:00:00+00:00")
    assert newest([new, old]) == newest([old, new]) == [new]
    assert len(newest([new, make_row(peer="sdpa")])) == 2


def test_cases_are_numbered_once_and_named_by_what_differs() -> None:
    rows = [make_row(case=f"T={T} D=8 causal", mode=mode, flops=T) for T in (2, 1) for mode in ("backward", "forward")]
    (group,) = groups(rows)
    assert group.numbers == {("adapter_mlp", "T=1 D=8 causal"): 1, ("adapter_mlp", "T=2 D=8 causal"): 2}
    assert group.heading("adapter_mlp") == "adapter_mlp D=8 causal"
    assert [group.short(key) for key in group.numbers] == ["T=1", "T=2"]


def test_labels_touch_nothing() -> None:
    frame = Box(200, 200, 400, 400)
    anchors = [Box(200 + 11 * (i % 3), 150 + 5 * i, 9, 9) for i in range(12)]
    line = [Box(190, 4 * i, 4, 4) for i in range(100)]
    labels = place(anchors, [(24.0, 9.0)] * len(anchors), line, frame)
    others = [*anchors, *line]
    for index, label in enumerate(labels):
        assert label.inside(frame)
        assert not any(label.touches(other) for other in [*others, *labels[:index]])


def test_boxes_that_touch_are_one_cluster() -> None:
    boxes = [Box(0, 0, 10, 10), Box(50, 0, 10, 10), Box(8, 0, 10, 10), Box(42, 0, 10, 10)]
    assert sorted(map(sorted, clusters(boxes, 18))) == [[0, 2], [1, 3]]
    assert len(clusters(boxes, 17)) == 4
    assert around([boxes[0], boxes[2]]) == Box(4, 0, 18, 10)
    assert ranges([5, 1, 4, 3, 8, 9, 3]) == "1, 3-5, 8, 9"


def test_numbers_have_three_digits() -> None:
    assert [digits(value) for value in (0, 0.001234, 1.5, 61.49, 1234.4)] == ["0", "0.00123", "1.50", "61.5", "1234"]
    assert [duration(us) for us in (0.5, 999, 1500, 2.5e6)] == ["0.500 us", "999 us", "1.50 ms", "2.50 s"]


class _Page(HTMLParser):
    """Counts what opens and closes, and gathers what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], Path]:
    """A folder with the report of a few rows: forward and backward, two peers, one row without a peer or FLOPs."""
    pytest.importorskip("matplotlib", reason="plots need the bench extra: pip install matplotlib")
    rows = [row for row in make_rows(modes=("forward", "backward")) if "T=" in row.case or "901" in row.case]
    rows.append(make_row(op="norm", case="<T>=1", flops=0, tflops=0.0, peer="none", peer_median_us=None, speedup=None))
    folder = tmp_path_factory.mktemp("report")
    write_rows(folder / "rows.json", rows)
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, folder / "rows.json", "--out", folder / "out") == 0
    return rows, folder / "out"


def test_plots_are_written_as_png_and_svg(drawn: tuple[list[Row], Path]) -> None:
    names = sorted(path.name for path in drawn[1].iterdir())
    slug = "cpu-bfloat16-2t-Some-R-Processor-2-cores"
    plots = [f"{plot}-{slug}.{suffix}" for plot in ("roofline", "speedup") for suffix in ("png", "svg")]
    assert names == sorted([*plots, "report.html"])
    assert all((drawn[1] / name).stat().st_size > 1000 for name in names)


def test_the_report_needs_no_network_and_is_well_formed(drawn: tuple[list[Row], Path]) -> None:
    text = (drawn[1] / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert page.counts["svg"] == 2 and page.counts["table"] == 2
    assert [link for link in page.fetched if not link.startswith("#")] == []
    assert re.findall(r"@import|url\((?!#)|\bfetch\(|https?://", text) == []
    ids = re.findall(r'\bid="([^"]+)"', text)
    targets = {link[1:] for link in page.fetched} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert targets <= set(ids)


def test_the_report_tells_every_row_and_where_it_comes_from(drawn: tuple[list[Row], Path]) -> None:
    rows, folder = drawn
    text = (folder / "report.html").read_text()
    body = text[text.index('class="sortable"') :]
    assert body.count("<tr>") == len(rows) + 1
    assert "&lt;T&gt;=1" in body and "<T>=1" not in text
    for fact in (rows[0].machine, rows[0].commit, rows[0].time, "python -m bench.roofline"):
        assert fact in text[: text.index("<table")]
    assert len(re.findall("<g><title>", text)) == 2 * (len(rows) - 1)


def extents(figure: Any, texts: list[Any]) -> list[Box]:
    """The pixels that texts take, a pixel less on each side."""
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts]
    return [Box((b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2, b.width - 2, b.height - 2) for b in boxes]


def test_texts_of_the_plots_do_not_overlap() -> None:
    pytest.importorskip("matplotlib", reason="plots need the bench extra: pip install matplotlib")
    from bench.report.roofline_plot import roofline
    from bench.report.speedup_plot import speedup
    from bench.report.style import Style

    noisy = {"p90_us": 1600.0, "peer": "torch_compile", "peer_median_us": 50.0, "speedup": 0.5}
    rows = [*make_rows(modes=("forward", "backward")), make_row(**noisy), make_row(**{**noisy, "speedup": 50.0})]
    (group,) = groups(rows)
    for draw in (roofline, speedup):
        figure = draw(group, Style.of(rows))
        assert figure is not None
        boxes = extents(figure, [*figure.axes[0].texts, *figure.texts])
        touching = [(one, other) for i, one in enumerate(boxes) for other in boxes[:i] if one.touches(other)]
        assert touching == [], draw.__name__
        width, height = figure.get_size_inches() * figure.dpi
        assert all(box.inside(Box(width / 2, height / 2, width, height)) for box in boxes), draw.__name__


def test_one_kind_of_row_draws_only_its_ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="plots need the bench extra: pip install matplotlib")
    for bound, unit, other in (("compute", "TFLOP/s bfloat16", "GB/s"), ("memory", "500 GB/s", "TFLOP/s bfloat16")):
        write_rows(tmp_path / "rows.json", [make_row(bound=bound, ceiling=6.2 if bound == "compute" else 500.0)])
        assert run(monkeypatch, tmp_path / "rows.json", "--out", tmp_path / bound) == 0
        (plot,) = (tmp_path / bound).glob("roofline*.svg")
        svg = plot.read_text()
        assert unit in svg, bound
        assert other not in svg, bound


def test_without_matplotlib_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "rows.json", [make_row()])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run(monkeypatch, tmp_path / "rows.json", "--out", tmp_path / "out") == 2
    assert "pip install matplotlib" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bad_use_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "none.json", [])
    for arguments, told in (
        ((), "FILE.json..."),
        ((tmp_path / "absent.json",), "cannot be read as bench rows"),
        ((tmp_path / "none.json",), "no rows"),
    ):
        assert run(monkeypatch, *arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line
