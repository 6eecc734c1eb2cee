"""bench.e2e on the demo preset: every part runs and gives a row, wrong results and wrong peers give no time."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import e2e, flops
from bench.ceilings import Ceilings
from bench.command import run_command
from bench.parts import jobs, subject
from bench.parts.jobs import PARTS, Job
from bench.parts.measure import OURS, Agreement, WrongResultError, measure
from bench.parts.memory import with_peak
from bench.parts.subject import Subject, load_subject, preset_config
from bench.peers_e2e import MIN_COSINE, PEERS, PeerModel, Run, load_peer
from bench.row import Row, read_rows
from lynx_engine import GenerationConfig, Lynx, LynxError, get_num_threads, registry, set_num_threads
from lynx_engine.demo import weights_folder
from lynx_engine.generate import DecoderSession
from lynx_engine.model import LynxModel
from lynx_engine.model.linear import Linear
from lynx_engine.weights.quantized import linears

CEILINGS = Ceilings("cpu", 1, {"float32": 0.2, "bfloat16": 3.0, "int8": 6.0}, {}, 15.0, 14.0)
PRODUCTS = {"bfloat16": "bfloat16", "int4": "int8"}


@pytest.fixture(scope="module")
def demo() -> Subject:
    return load_subject("demo", "float32", "cpu", tuple(PARTS))


@pytest.fixture(scope="module")
def bare() -> Subject:
    """Without adapters, and with random weights, as most that is measured has."""
    return load_subject("demo/2", "float32", "cpu", ("decode",), adapters=False)


class Someone:
    """A peer of which only the result matters."""

    min_cosine = MIN_COSINE


@pytest.fixture
def few_sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One small size a part, and one thread: more of them wait for each other where the processor is shared."""
    monkeypatch.setattr(jobs, "IMAGE_BATCHES", (2,))
    monkeypatch.setattr(jobs, "PREFILL_POSITIONS", (40,))
    monkeypatch.setattr(jobs, "DECODE_BATCHES", (3,))
    monkeypatch.setattr(jobs, "ANSWER_TOKENS", 4)
    monkeypatch.setattr(e2e, "measure_ceilings", lambda threads, device: CEILINGS)
    threads = get_num_threads()
    set_num_threads(1)
    yield
    set_num_threads(threads)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench.e2e", "--seconds", "0", *arguments])
    return run_command(e2e.E2E, "e2e")


@pytest.mark.usefixtures("few_sizes")
def test_every_part_gives_a_line_and_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, "--json", str(tmp_path / "rows.json")) == 0
    rows = read_rows(tmp_path / "rows.json")
    assert [row.op for row in rows] == [f"e2e/{part}" for part in PARTS]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.split()[0] in PARTS]
    assert [line.split()[0] for line in lines] == list(PARTS)
    for row in rows:
        check(row)
    assert [row.mode for row in rows] == ["both" if row.op == "e2e/train" else "forward" for row in rows]


@pytest.mark.usefixtures("few_sizes")
def test_what_is_left_out_or_quantised_stands_in_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "rows.json"
    assert run(monkeypatch, "--no-adapters", "--quantize", "int4", "--json", str(out)) == 0
    rows = read_rows(out)
    assert [row.op for row in rows] == [f"e2e/{part}" for part in PARTS]
    for row in rows:
        check(row, case="demo no-adapters ", dtype="int4")


def check(row: Row, case: str = "demo ", dtype: str = "bfloat16") -> None:
    """What a reader of the JSON may rely on."""
    assert row.case.startswith(case)
    assert (row.dtype, row.device, row.peer, row.speedup) == (dtype, "cpu", "none", None)
    assert 0 < row.p10_us <= row.median_us <= row.p90_us
    assert row.runs >= 3
    assert row.flops > 0 and row.bytes > 0
    assert math.isclose(row.tflops, row.flops / row.median_us / 1e6)
    assert math.isclose(row.gbps, row.bytes / row.median_us / 1e3)
    reached, ceiling = (row.tflops, CEILINGS.tflops[PRODUCTS[dtype]]) if row.bound == "compute" else (row.gbps, 15.0)
    assert row.ceiling == ceiling and math.isclose(row.ceiling_fraction, reached / ceiling)
    assert set(row.backend.split("+")) <= {b.name for op in registry.ops().values() for b in op.backends}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--part", "vit"], ["unknown part 'vit'", *PARTS]),
        (["--preset", "lynx_9b"], ["unknown preset 'lynx_9b'", "lynx_8b/8", "demo"]),
        (["--preset", "lynx_8b/0"], ["unknown preset 'lynx_8b/0'"]),
        (["--peer", "vllm"], ["unknown peer 'vllm'", "none", *PEERS, "all"]),
        (["--dtype", "int8"], ["unknown dtype 'int8'", "float32", "bfloat16"]),
        (["--quantize", "int5"], ["int8 or int4", "int5"]),
        (["--quantize", "int4", "--dtype", "float32"], ["of bfloat16", "got int4, float32"]),
        (["--device", "tpu"], ["unknown device 'tpu'", "cpu, cuda"]),
        (["--threads", "0"], ["set_num_threads"]),
    ],
)
def test_bad_use_is_one_line(
    arguments: list[str], said: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for words in said:
        assert words in line


def test_a_model_too_large_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_available_bytes", lambda device: 12 << 30)
    with pytest.raises(LynxError, match=r"^lynx_8b in bfloat16 .* needs about .*, 12\.0 are free: .*lynx_8b/8"):
        load_subject("lynx_8b", "bfloat16", "cpu", ("prefill",))


def test_part_depth_keeps_the_widths() -> None:
    whole, eighth = preset_config("lynx_8b"), preset_config("lynx_8b/8")
    assert (eighth.vision.num_layers, eighth.llm.num_layers) == (5, 4)
    assert eighth.bridge == whole.bridge
    assert dataclasses.replace(eighth.llm, num_layers=32) == whole.llm


def test_random_weights_fill_every_parameter() -> None:
    made = load_subject("demo/2", "bfloat16", "cpu", ())
    assert made.config.llm.num_layers == 2
    assert all(p.dtype == torch.bfloat16 and bool(p.isfinite().all()) for p in made.model.parameters())


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_random_codes_make_a_model_of_finite_results(format: str) -> None:
    made = load_subject("demo/2", "bfloat16", "cpu", (), quantize=format)
    quantized = {name for name, m in made.model.named_modules() if isinstance(m, Linear) and m.quantized}
    assert quantized == {name for name, _ in linears(LynxModel(made.config))}
    assert made.embeddings(40).isfinite().all()
    logits = DecoderSession(made.model, made.embeddings(40)).prefill()
    assert logits.isfinite().all() and 0.1 < float(logits.float().std()) < 10


def test_the_subject_is_what_lynx_loads(demo: Subject) -> None:
    """The same modules packed, the same numbers."""
    loaded = Lynx.load(weights_folder(), dtype="float32").model
    for (name, ours), (other, theirs) in zip(demo.model.named_parameters(), loaded.named_parameters(), strict=True):
        assert name == other and ours.shape == theirs.shape and torch.equal(ours, theirs), name


def job(run: Run, twin: Run | None = None) -> Job:
    return Job("B=1", flops.Work(1, 1), 1, "tokens", run, lambda peer: twin)


def test_a_result_that_is_not_finite_is_not_timed() -> None:
    with pytest.raises(WrongResultError, match="not finite"):
        measure(job(lambda: torch.tensor([1.0, float("nan")])), {}, 0.0, "cpu")


@pytest.mark.usefixtures("few_sizes")
def test_a_part_that_fails_is_said_and_ends_in_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(subject: Subject) -> Iterator[Job]:
        yield job(lambda: torch.tensor(float("inf")))

    monkeypatch.setitem(PARTS, "resampler", broken)
    assert run(monkeypatch, "--part", "resampler", "--part", "vision") == 1
    assert "resampler B=1: the result is not finite" in capsys.readouterr().out


def test_a_peer_that_computes_something_else_is_not_timed() -> None:
    logits = torch.randn(1, 100, generator=torch.Generator().manual_seed(0))
    for theirs in (-logits, logits.roll(1), torch.full_like(logits, float("nan")), logits[:, 1:]):
        measured = measure(job(lambda: logits, lambda theirs=theirs: theirs), {"peer": Someone()}, 0.0, "cpu")
        assert set(measured.timings) == {OURS}
        assert not measured.agreements["peer"].ok
    measured = measure(job(lambda: logits, lambda: logits + 1e-3), {"peer": Someone()}, 0.0, "cpu")
    assert set(measured.timings) == {OURS, "peer"}


def test_a_row_for_each_peer(demo: Subject) -> None:
    logits = torch.ones(1, 3)
    wrong = measure(job(lambda: logits, lambda: -logits), {"peer": Someone()}, 0.0, "cpu")
    (alone,) = e2e.make_rows("decode", job(lambda: logits), wrong, demo, CEILINGS)
    assert (alone.peer, alone.peer_median_us, alone.speedup) == ("none", None, None)
    both = measure(job(lambda: logits, lambda: logits), {"a": Someone(), "b": Someone()}, 0.0, "cpu")
    rows = e2e.make_rows("decode", job(lambda: logits), both, demo, CEILINGS)
    for row, name in zip(rows, "ab", strict=True):
        assert (row.peer, row.peer_median_us) == (name, both.timings[name].median_us)
        assert row.speedup == both.timings[name].median_us / row.median_us


def test_agreement_of_ids_counts_the_leading_ones() -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    assert Agreement.of(ids, torch.tensor([[5, 6, 9, 8]]), MIN_COSINE).text == "2 of 4 leading tokens alike"
    assert not Agreement.of(ids, ids[:, :3], MIN_COSINE).ok


def test_the_peak_of_memory_is_seen() -> None:
    _, before = with_peak(lambda: None, "cpu")
    if before is None:
        pytest.skip("this system does not reset VmHWM")
    _, peak = with_peak(lambda: torch.ones(1 << 26).sum(), "cpu")
    assert peak is not None and peak - before > (200 << 20)
    _, after = with_peak(lambda: None, "cpu")
    assert after is not None and after < peak - (200 << 20)


def test_decode_reads_the_same_positions_in_every_call(demo: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step's logits are those behind the whole text, and a second call finds the cache as the first did."""
    monkeypatch.setattr(jobs, "DECODE_BATCHES", (3,))
    (step,) = jobs.decode(demo)
    first, second = step.run(), step.run()
    assert torch.equal(first, second)
    embeds, new = demo.embeddings(jobs.DECODE_PAST), demo.model.embed(demo.token_ids(3, 1))
    whole = torch.cat((embeds.expand(3, -1, -1), new), dim=1)
    torch.testing.assert_close(first, DecoderSession(demo.model, whole).prefill(), rtol=1e-3, atol=1e-3)


def test_the_training_step_leaves_the_weights(demo: Subject) -> None:
    before = {name: p.detach().clone() for name, p in demo.model.named_parameters()}
    for step in jobs.train(demo):
        loss, norm = step.run()
        assert loss > 0 and norm > 0
    for name, parameter in demo.model.named_parameters():
        assert torch.equal(parameter, before[name]), name
        assert parameter.grad is None, name


def test_a_missing_peer_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, demo: Subject) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    monkeypatch.setattr("bench.peers_e2e.importlib.import_module", missing)
    with pytest.raises(LynxError, match=r"^peer transformers is not installed: pip install -c constraints"):
        load_peer("transformers", demo)


@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if peer.form is None])
def test_a_peer_computes_what_we_compute(name: str, demo: Subject, bare: Subject) -> None:
    subject = bare if name == "llama_cpp" else demo
    peer = installed(name, subject)
    embeds, new = subject.embeddings(50), subject.token_ids(3, 1)
    session = DecoderSession(subject.model, embeds)
    agree(peer.prefill(embeds), session.prefill())
    step = peer.decode(embeds, new)
    wanted = session.step(new[:, 0], torch.zeros(3, dtype=torch.int64))
    agree(step, wanted)
    if name != "openvino":  # its state goes on growing
        agree(step, wanted)
    answers(peer, embeds)


@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if peer.form is not None])
@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_a_peer_in_its_own_bits_is_near(name: str, quantize: str | None) -> None:
    subject = load_subject("demo/2", "bfloat16", "cpu", ("decode",), adapters=False, quantize=quantize)
    peer = installed(name, subject)
    embeds = subject.embeddings(50)
    theirs = peer.prefill(embeds)
    assert theirs is not None
    agreement = Agreement.of(DecoderSession(subject.model, embeds).prefill(), theirs(), peer.min_cosine)
    assert agreement.ok, agreement.text


def test_llama_cpp_has_no_adapters(demo: Subject) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    with pytest.raises(LynxError, match=r"^peer llama_cpp has no place for Lynx's adapters: .*--no-adapters"):
        load_peer("llama_cpp", demo)


def test_a_row_of_4_bits_has_no_peer_of_unsaid_bits(bare: Subject) -> None:
    quantised = dataclasses.replace(bare, quantize="int4")
    with pytest.raises(LynxError, match="16 or 32 bits, ours int4; peers with fewer: llama_cpp_q8_0, llama_cpp_q4_0"):
        load_peer("transformers", quantised)


def installed(name: str, subject: Subject) -> PeerModel:
    try:
        return load_peer(name, subject)
    except LynxError as error:
        pytest.skip(str(error))


def agree(peer_run: Run | None, ours: Tensor) -> None:
    assert peer_run is not None
    torch.testing.assert_close(peer_run(), ours, rtol=1e-3, atol=1e-3)


def answers(peer: PeerModel, embeds: Tensor) -> None:
    search = peer.answer(embeds, GenerationConfig.preset("open-vqa").replace(max_new_tokens=4, min_length=5))
    assert search is None or search().shape == (1, 4)
