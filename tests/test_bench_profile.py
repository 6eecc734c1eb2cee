"""bench.profile: a trace with ranges named like ops, command lines of other profilers, clear lines for bad use."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench import profile as bench_profile
from bench.command import run_command
from bench.profile import Profile
from bench.profiling import outside
from bench.profiling.ranges import op_ranges
from bench.profiling.work import Work, op_work
from lynx_engine import ops, registry
from lynx_engine.errors import LynxError

SMALL = ("--op", "adapter_mlp", "--case", "T=63 ", "--backend", "reference", "--dtype", "float32", "--flame", "none")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bench.profile", *map(str, arguments)])
    return run_command(Profile, "profile")


def test_the_trace_has_ranges_named_like_ops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *SMALL, "--mode", "both", "--repeat", 2, "--out", tmp_path) == 0
    events = json.loads((tmp_path / "adapter_mlp-both.trace.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    wanted = ["adapter_mlp [reference]", "adapter_mlp_backward [reference]"]
    wanted += [f"adapter_mlp T=63 D=65 R=33 {mode}" for mode in ("forward", "backward")]
    assert {name: names.count(name) for name in wanted} == dict.fromkeys(wanted, 2)
    printed = capsys.readouterr().out
    assert all(name in printed for name in wanted) and "adapter_mlp-both.trace.json" in printed


def test_ranges_end_with_the_profile() -> None:
    op = registry.ops()["adapter_mlp"]
    plain = [backend.run for backend in op.backends]
    with op_ranges():
        inside = [backend.run for backend in op.backends]
        assert [backend.name for backend in op.backends][-1] == "reference"
    assert not set(plain) & set(inside)
    assert not set(inside) & {backend.run for backend in op.backends}


def test_results_are_the_same_inside_ranges() -> None:
    (suite,) = (suite for suite in ops.suites() if suite.op == "adapter_mlp")
    arguments = suite.cases[0].make(torch.Generator().manual_seed(0), torch.float32)
    with op_ranges():
        ranged = suite.function(**arguments)
    assert torch.equal(ranged, suite.function(**arguments))


def test_without_a_case_the_benchmark_cases_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.profiling.work._call", lambda suite, case, *rest: lambda: None)
    names = list(op_work("patch_embed", "", "auto", "both", "float32", "cpu").calls)
    benchmarks = [case.name for s in ops.suites() if s.op == "patch_embed" for case in s.cases if "cpu" in case.bench]
    assert names == [f"patch_embed {case} {mode}" for case in benchmarks for mode in ("forward", "backward")]
    assert op_work("prefix_attention_varlen", "", "auto", "forward", "float32", "cpu").calls


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "either --op OP or --e2e PRESET"),
        (("--op", "adapter_mlp", "--e2e", "demo"), "either --op OP or --e2e PRESET"),
        (("--op", "nope"), "ops: adapter_mlp, "),
        (("--op", "adapter_mlp", "--case", "nope"), "T=2048"),
        (("--op", "adapter_mlp", "--backend", "nope"), "cpu_avx2, reference"),
        (("--op", "adapter_mlp", "--mode", "nope"), "modes: forward, backward, both"),
        (("--op", "adapter_mlp", "--dtype", "nope"), "dtypes: float32, bfloat16"),
        (("--e2e", "nope"), "presets: lynx_8b"),
    ],
)
def test_bad_use_is_one_line_that_lists_what_exists(
    arguments: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments, "--flame", "none") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_the_sampler_is_chosen_or_its_install_told(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"perf"}
    monkeypatch.setattr(outside, "program", lambda name: f"/bin/{name}" if name in here else None)
    assert outside.sampler("auto") == "perf"
    here.add("py-spy")
    assert outside.sampler("auto") == "py-spy"
    here.clear()
    with pytest.raises(LynxError, match="pip install py-spy"):
        outside.sampler("auto")


def test_a_sampler_looks_while_the_work_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "py-spy"
    fake.write_text(
        '#!/bin/sh\necho "$@" > "$(dirname "$0")/arguments"\nsleep 0.2\nexit $(cat "$(dirname "$0")/code")\n'
    )
    fake.chmod(0o755)
    (tmp_path / "code").write_text("0")
    monkeypatch.setattr(outside, "program", lambda name: str(fake))
    rounds = []

    def repeat_while(more: Callable[[], bool]) -> None:
        while more():
            rounds.append(1)

    path = outside.flame_graph("py-spy", repeat_while, 2.0, tmp_path / "out" / "work")
    assert path == tmp_path / "out" / "work.flame.svg" and rounds
    words = (tmp_path / "arguments").read_text().split()
    assert {"--native", "--pid", "--duration", str(path)} <= set(words)
    (tmp_path / "code").write_text("3")
    with pytest.raises(LynxError, match="exit code 3"):
        outside.flame_graph("py-spy", repeat_while, 2.0, tmp_path / "out" / "work")


def test_gpu_tools_run_this_command_bare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their command lines are made without a GPU; whether the tools like them, a machine with one must tell."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(bench_profile, "op_work", lambda *_: Work("adapter_mlp-both", {}))
    monkeypatch.setattr(bench_profile, "record", lambda *_: [bench_profile.RangeTime("adapter_mlp", 1, 1.0)])
    given = ("--op", "adapter_mlp", "--case", "T=1 D=4096", "--mode", "both", "--device", "cuda")
    assert run(monkeypatch, *given, "--out", tmp_path) == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()[-5:]]
    assert [command[0] for command in commands] == ["ncu", *["compute-sanitizer"] * 4]
    for command in commands:
        again = command[command.index(sys.executable) :]
        assert again[1:3] == ["-m", "bench.profile"] and again[-1] == "--bare"
        assert {"--op", "adapter_mlp", "--case", "T=1 D=4096", "--device", "cuda", "--mode", "both"} <= set(again)
