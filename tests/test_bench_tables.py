"""bench.tables: committed rows into the READMEs and back again, by names that say which rows."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path

import pytest
import tyro
from bench_rows import make_row, make_rows

from bench.command import run_command
from bench.e2e import E2E
from bench.markdown import Results, table
from bench.ops import Ops
from bench.row import Row, write_rows
from bench.tables import Tables, fill, filled
from lynx_engine.errors import LynxError

ROOT = Path(__file__).resolve().parents[1]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bench.tables", *map(str, arguments)])
    return run_command(Tables, "tables")


def marked(name: str, body: str = "") -> str:
    return f"above\n<!-- bench:begin {name} -->\n{body}<!-- bench:end {name} -->\nbelow\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Two documents with markers, one without, and committed rows."""
    for place, text in (
        ("README.md", marked("ops dtype=bfloat16")),
        (
            "kernels/adapter_mlp/README.md",
            marked("op=adapter_mlp", "| old |\n") + marked("op=adapter_mlp mode=forward"),
        ),
        ("kernels/patch_embed/README.md", "says `<!-- bench:begin NAME -->` within a line\n"),
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    write_rows(tmp_path / "bench/results/some-machine/ops.json", make_rows(modes=("forward", "backward")))
    return tmp_path


def test_round_trip(checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_text() for path in checkout.rglob("*.md")}
    assert run(monkeypatch, "--check", "--root", checkout) == 1
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told] == ["README.md", "kernels/adapter_mlp/README.md"]
    assert {path: path.read_text() for path in before} == before

    assert run(monkeypatch, "--root", checkout) == 0
    text = (checkout / "README.md").read_text()
    assert text.startswith("above\n<!-- bench:begin ops dtype=bfloat16 -->\n") and text.endswith("-->\nbelow\n")
    assert "| `adapter_mlp` | T=512 |" in text
    assert "old" not in (checkout / "kernels/adapter_mlp/README.md").read_text()
    assert "within a line" in (checkout / "kernels/patch_embed/README.md").read_text()

    assert run(monkeypatch, "--check", "--root", checkout) == 0
    write_rows(checkout / "bench/results/some-machine/ops.json", [make_row(median_us=123.0)])
    assert run(monkeypatch, "--check", "--root", checkout) == 1


def test_this_checkout_is_up_to_date() -> None:
    assert [str(path) for path in filled(ROOT)] == [], "run make bench-readme"


def test_a_table_tells_machine_commit_date_and_command() -> None:
    path = "bench/results/some-machine/ops.json"
    text = table("op=adapter_mlp", [Results(path, tuple(make_rows()))], "here")
    caption, command, *_ = text.split("\n\n")
    row = make_row()
    assert row.machine in caption and f"commit {row.commit}" in caption and "2026-01-02" in caption
    assert command.strip().startswith("python -m bench.ops ") and f"--json {path}" in command


def test_numbers_are_those_of_the_rows() -> None:
    rows = [make_row(), make_row(peer="sdpa", peer_median_us=150.0, speedup=1.5)]
    (line,) = table("op=adapter_mlp", [Results("f.json", tuple(rows))], "here").splitlines()[-1:]
    assert line == "| T=72 | 100 us | 1.11 | 2.48 TFLOP/s | 40 % compute | 1.50 sdpa, 2.00 torch |"


def test_ops_takes_the_fastest_backend_and_no_whole_part() -> None:
    slow, fast = make_row(), make_row(backend="cpu_avx2", median_us=90.0)
    whole = make_row(op="e2e/vision", case="demo B=1")
    results = [Results("f.json", (slow, fast, whole))]
    assert "`cpu_avx2`" in table("ops", results, "here") and "`cpu_amx`" not in table("ops", results, "here")
    assert "e2e/" not in table("ops", results, "here") and "`e2e/vision`" in table("e2e", results, "here")
    assert "`cpu_amx`" in table("op=adapter_mlp", results, "here")


def test_a_field_may_have_several_values() -> None:
    results = [Results("f.json", tuple(make_row(mode=mode) for mode in ("forward", "backward", "both")))]
    cells = [
        line.split(" | ")[1] for line in table("op=adapter_mlp mode=both,forward", results, "here").splitlines()[6:]
    ]
    assert cells == ["forward", "both"]


def test_every_machine_has_a_table_of_its_own() -> None:
    rows = (make_row(), make_row(machine="Another"))
    text = table("ops", [Results("a.json", rows[:1]), Results("b.json", rows[1:])], "here")
    another, some = text.index("Another;"), text.index("Some(R) Processor, 2 cores;")
    assert another < some and "b.json" in text[:some] and "a.json" not in text[:some]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ([{}], "--op adapter_mlp --backend cpu_amx --mode forward --peer torch --dtype bfloat16 --threads 2"),
        ([{}, {"backend": "cpu_avx2", "mode": "backward"}], "--backend auto --mode all"),
        ([{}, {"backend": "cpu_avx2"}, {"peer": "sdpa"}], "--backend all --mode forward --peer all"),
        ([{}, {"op": "norm", "peer": "none"}], "bench.ops --backend cpu_amx --mode forward --dtype"),
        ([{"device": "cuda"}], "--dtype bfloat16 --device cuda --json"),
        ([{"op": "e2e/vision", "case": "lynx_8b/8 B=1"}], "bench.e2e --preset lynx_8b/8 --peer torch"),
        (
            [{"op": "e2e/decode", "case": "lynx_8b no-adapters B=1", "dtype": "int4", "peer": "llama_cpp_q4_0"}],
            "bench.e2e --preset lynx_8b --no-adapters --peer llama_cpp_q4_0 --quantize int4",
        ),
    ],
)
def test_the_command_says_what_the_rows_are(changes: list[dict[str, str]], wanted: str) -> None:
    rows: tuple[Row, ...] = tuple(dataclasses.replace(make_row(), **change) for change in changes)
    command = Results("bench/results/m/f.json", rows).command()
    assert wanted in command
    _, _, module, *arguments = shlex.split(command)
    parsed = tyro.cli({"bench.ops": Ops, "bench.e2e": E2E}[module], args=arguments)
    assert parsed.json == Path("bench/results/m/f.json")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<!-- bench:begin ops -->\n", "partner"),
        ("<!-- bench:end ops -->\n", "partner"),
        ("<!-- bench:begin ops -->\n<!-- bench:end e2e -->\n", "bench:begin ops is not followed"),
        (marked("ops", marked("e2e")), "bench:begin ops is not followed"),
        (marked("nonsense"), "fields: op, case, dtype"),
        (marked("colour=red"), "fields: op, case, dtype"),
        (marked("op=nope"), "ops that have rows: adapter_mlp, patch_embed, prefix_attention"),
    ],
)
def test_bad_markers_are_one_line_that_names_the_file(
    text: str, told: str, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "README.md").write_text(text)
    assert run(monkeypatch, "--root", checkout) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "README.md: " in line and told in line


def test_an_empty_table_waits_for_the_first_results() -> None:
    assert fill(marked("ops"), [], "here") == marked("ops")
    with pytest.raises(LynxError, match="no row of bench/results matches"):
        fill(marked("ops", "| old |\n"), [], "here")


def test_a_table_without_results_says_how_to_get_some() -> None:
    with pytest.raises(LynxError, match=r"python -m bench\.ops --json"):
        table("ops", [], "here")
