"""bench.ops: what it measures, in which order, what it refuses, and that a wrong result gets no number."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch

from bench import ops as bench_ops
from bench.ceilings import Ceilings
from bench.command import run_command
from bench.compare import p_value
from bench.expected import _summary
from bench.jobs import Choice, Job
from bench.measure import Timing, copies_past_caches, interleaved, last_level_cache_bytes
from bench.ops import Ops
from bench.peers import peer_names, peers_of
from bench.row import read_rows, write_rows
from bench.run import OURS, measure, rows
from bench.stamp import Stamp
from lynx_engine import ops, registry
from lynx_engine.errors import LynxError

SUITES = {suite.op: suite for suite in ops.suites()}
CEILINGS = Ceilings("cpu", 1, {"float32": 0.2, "bfloat16": 0.4}, {}, read_gbps=20.0, copy_gbps=20.0)


def small_job(op: str = "adapter_mlp", mode: str = "forward", backend: str = "auto") -> Job:
    suite = SUITES[op]
    case = next(case for case in suite.cases if case.flops and not case.bench)
    return Job(suite, case, torch.float32, mode, backend, "cpu")


def test_every_op_is_measured_on_lynx_shapes():
    names = {suite: [job.case.name for job in Choice(op=suite).jobs()] for suite in ("adapter_mlp", "patch_embed")}
    assert names["adapter_mlp"][::2] == ["T=1", "T=8", "T=72", "T=288", "T=512", "T=2048"]
    assert {"bytes 420 B=64", "floats 224 B=1"} < set(names["patch_embed"])
    attention = {job.case.name for job in Choice(op="prefix_attention", dtype="bfloat16").jobs()}
    assert {"vit 257 B=8", "vit 901 B=1", "prefill 1056", "decode KV=4096 B=32"} < attention
    assert "decode KV=4096 B=128" not in attention  # a GPU's size


def test_a_number_in_a_case_is_not_the_start_of_another():
    jobs = Choice(op="prefix_attention", case="KV=1024 B=8").jobs()
    assert {job.case.name for job in jobs} == {"decode KV=1024 B=8"}
    with pytest.raises(LynxError, match="no case has 'T=7' in its name"):
        Choice(case="T=7").jobs()


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        (Choice(op="adapter"), "unknown op 'adapter'; there are: adapter_mlp, "),
        (Choice(case="nine"), r"no case has 'nine' in its name; cases: T=1, "),
        (Choice(dtype="int4"), "unknown dtype 'int4'; there are: float32, bfloat16, float16"),
        (Choice(backend="cpu_sse"), "unknown backend 'cpu_sse'; there are: auto, all, "),
        (Choice(mode="sideways"), "unknown mode 'sideways'"),
        (Choice(dtype="float16", op="adapter_mlp"), "nothing to measure"),
    ],
)
def test_bad_choices_say_what_exists(choice, says):
    with pytest.raises(LynxError, match=says):
        choice.jobs()


def test_a_backend_that_cannot_run_here_is_refused_with_the_reason():
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LYNX_CPU_ISA", "avx2")
            registry.refresh()
            with pytest.raises(
                LynxError, match="--backend cpu_avx512: LYNX_CPU_ISA=avx2 forbids avx512; here: .*reference"
            ):
                Choice(backend="cpu_avx512").jobs()
    finally:
        registry.refresh()


def test_peers_are_those_of_the_ops_that_are_measured():
    names = peer_names(job.suite for job in Choice(op="quantized_linear").jobs())
    assert names == ("torch", "torch_compile", "torch_int8", "none", "all")
    with pytest.raises(LynxError, match="unknown peer 'sdpa'; there are: torch, torch_compile, onednn, none, all"):
        Ops(op="linear", peer="sdpa").run()


@pytest.mark.parametrize("mode", ["forward", "backward", "both"])
def test_a_job_becomes_rows_of_what_was_timed(mode, tmp_path):
    job = small_job(mode=mode)
    measured = measure(job, peers_of(job.suite, "torch"), seconds=0.001)
    assert not measured.faults
    assert set(measured.samples) == {OURS, "torch"}
    (row,) = rows(job, measured, CEILINGS, Stamp("machine", "commit", "time"))
    flops, bytes_ = job.case.work(torch.float32, mode)
    assert (row.op, row.mode, row.flops, row.bytes, row.peer) == ("adapter_mlp", mode, flops, bytes_, "torch")
    assert row.p10_us <= row.median_us <= row.p90_us
    assert row.speedup == pytest.approx(row.peer_median_us / row.median_us)
    assert row.ceiling_fraction == pytest.approx(max(flops / 0.2e6, bytes_ / 20e3) / row.median_us)
    write_rows(tmp_path / "rows.json", [row])
    assert read_rows(tmp_path / "rows.json") == [row]


def test_a_wrong_result_gets_no_number(monkeypatch, capsys):
    job = small_job()
    wrong = dataclasses.replace(job.suite, function=lambda **given: job.suite.function(**given) * 1.001)
    bad = dataclasses.replace(job, suite=wrong)
    measured = measure(bad, {}, seconds=0.001)
    assert not measured.samples
    assert "output at [0, " in measured.faults[0]
    monkeypatch.setattr(Choice, "jobs", lambda self: [bad])
    monkeypatch.setattr(bench_ops, "measure_ceilings", lambda *given: CEILINGS)
    monkeypatch.setattr(sys, "argv", ["ops", "--peer", "none", "--threads", "1"])
    assert run_command(bench_ops.Ops, "ops") == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("WRONG adapter_mlp T=1 D=64 R=32 float32 forward auto: output at")
    assert " us " not in captured.out


def test_a_wrong_peer_is_named_and_not_timed():
    job = small_job()
    measured = measure(job, {"liar": lambda given: lambda: job.suite.function(**given) + 1}, seconds=0.001)
    assert set(measured.samples) == {OURS}
    assert measured.faults[0].startswith("liar: output at")


def test_calls_alternate_and_see_the_number_of_their_round():
    seen: list[tuple[str, int]] = []
    calls = {name: (lambda number, name=name: seen.append((name, number))) for name in "ab"}
    samples = interleaved(calls, seconds=0.0, min_runs=4)
    assert seen[4:] == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2), ("b", 3), ("a", 3)]
    assert [len(taken) for taken in samples.values()] == [4, 4]


def test_percentiles_are_of_all_samples():
    timing = Timing.of([number * 1e-6 for number in range(1, 12)])
    assert (timing.p10_us, timing.median_us, timing.p90_us, timing.runs) == pytest.approx((2, 6, 10, 11))


def test_inputs_outgrow_the_caches_and_not_the_memory():
    cache = last_level_cache_bytes()
    assert copies_past_caches(cache) == 5
    assert copies_past_caches(1) == 256
    assert copies_past_caches(2 << 30) == 1


def test_the_lower_ceiling_binds():
    assert CEILINGS.floor_us("float32", flops=2_000_000, bytes_=20_000) == (pytest.approx(10.0), "compute")
    assert CEILINGS.floor_us("float32", flops=2_000_000, bytes_=400_000) == (pytest.approx(20.0), "memory")
    assert (CEILINGS.of("bfloat16", "compute"), CEILINGS.of("bfloat16", "memory")) == (0.4, 20.0)


def test_p_value_counts_the_deals():
    slower, same = [2.0, 2.1, 2.2, 2.3, 2.4, 2.5], [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    assert p_value(same, slower) == pytest.approx(1 / 924)
    assert p_value(slower, same) == 1.0
    assert p_value(same, same) > 0.4


def test_the_tolerance_of_a_recorded_ratio_covers_its_spread():
    assert _summary([2.0, 2.0, 2.1]) == (2.0, 0.2)
    assert _summary([1.0, 2.0, 3.0]) == (2.0, 1.5)
