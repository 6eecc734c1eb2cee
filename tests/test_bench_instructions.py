"""bench.instructions: what counts as a miss, how a callgrind profile is read, and that counts repeat exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bench import instructions
from bench.callgrind import Call, Driver, build_driver, own_instructions
from bench.instructions import Instructions, misses
from lynx_engine.errors import LynxError

COMPILER = "GNU 12.2.0"
CALLS = (
    Call(0, "avx2", "norm", "forward T=1", True),
    Call(1, "avx512", "norm", "forward T=1", True),
    Call(2, "avx2", "rope", "forward T=1", True),
    Call(3, "avx512", "rope", "forward T=1", False),
)
COUNTS = {"norm avx2 forward T=1": 1000, "norm avx512 forward T=1": 500, "rope avx2 forward T=1": 700}


class FakeDriver(Driver):
    def counts(self, calls: list[Call]) -> dict[str, int]:
        return {call.key: COUNTS[call.key] for call in calls}


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    driver = FakeDriver(Path("lynx_count"), COMPILER, CALLS)
    monkeypatch.setattr(instructions, "build_driver", lambda: driver)
    monkeypatch.setattr(instructions, "demand_calls_of_every_kernel", lambda driver: None)
    return driver


@pytest.fixture(scope="module")
def driver_built() -> Driver:
    try:
        return build_driver()
    except LynxError as error:
        pytest.skip(f"the driver cannot be built here: {error}")


@pytest.mark.usefixtures("driver")
def test_a_count_is_recorded_compared_and_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "counts.json"
    assert Instructions(file=file).run() == 0
    assert "nothing compared" in capsys.readouterr().out
    assert Instructions(file=file, update=True).run() == 0
    assert json.loads(file.read_text()) == {COMPILER: COUNTS}
    assert Instructions(file=file).run() == 0
    file.write_text(json.dumps({COMPILER: {**COUNTS, "norm avx2 forward T=1": 990}}))
    capsys.readouterr()
    assert Instructions(file=file).run() == 1
    assert "+1.0" in capsys.readouterr().out
    assert Instructions(file=file, op="rope").run() == 0


@pytest.mark.usefixtures("driver")
def test_update_keeps_what_was_not_counted(tmp_path: Path) -> None:
    """Other compilers, other ops, and instruction sets that this processor lacks."""
    file = tmp_path / "counts.json"
    kept = {"rope avx512 forward T=1": 9, "rope avx2 forward T=1": 8}
    gone = {"norm avx2 forward T=2": 7}
    file.write_text(json.dumps({"Clang 16": {"norm avx2 forward T=1": 1}, COMPILER: {**kept, **gone}}))
    assert Instructions(file=file, op="norm", update=True).run() == 0
    norm = {key: count for key, count in COUNTS.items() if key.startswith("norm")}
    assert json.loads(file.read_text()) == {"Clang 16": {"norm avx2 forward T=1": 1}, COMPILER: {**kept, **norm}}


@pytest.mark.usefixtures("driver")
def test_a_base_is_compared_where_both_have_the_call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = {"norm avx2 forward T=1": 1000, "rope avx2 forward T=1": 700, "gone avx2 forward T=1": 1}
    monkeypatch.setattr(instructions, "base_counts", lambda revision, compiler: base)
    assert Instructions(base="HEAD").run() == 0
    assert "2 instruction counts" in capsys.readouterr().out
    base["rope avx2 forward T=1"] = 600
    assert Instructions(base="HEAD").run() == 1
    with pytest.raises(LynxError, match="choose one"):
        Instructions(base="HEAD", update=True).run()


@pytest.mark.usefixtures("driver")
def test_bad_use_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(LynxError, match="no op 'nrom'.*there are norm, rope"):
        Instructions(op="nrom").run()
    file = tmp_path / "counts.json"
    file.write_text("[1]")
    with pytest.raises(LynxError, match="cannot be read as instruction counts"):
        Instructions(file=file).run()


def test_one_percent_either_way_is_a_miss() -> None:
    recorded = {"up": 1000, "down": 1000, "same": 1000, "near": 1000, "gone": 5, "none": 0, "some": 0}
    now = {"up": 1010, "down": 990, "same": 1000, "near": 1009, "new": 5, "none": 0, "some": 1}
    assert [miss.kernel for miss in misses(recorded, now)] == ["down", "gone", "new", "some", "up"]


def test_a_kernel_that_no_call_counts_is_an_error() -> None:
    with pytest.raises(LynxError, match=r"cpu_avx2.cpp is not counted: add its calls to bench/native/ops/"):
        instructions.demand_calls_of_every_kernel(Driver(Path("lynx_count"), COMPILER, CALLS))


def test_a_profile_counts_the_program_and_not_the_library() -> None:
    profile = "\n".join(
        (
            *("events: Ir", "summary: 999", "", "ob=/lib/libc.so.6", "fn=memcpy", "0 90", ""),
            *("ob=/build/lynx_count", "fn=kernel", "10 5", "12 7", "cob=/lib/libc.so.6", "cfn=memcpy"),
            *("calls=1 0", "12 90", "13 1", "", "fn=other", "20 100"),
        )
    )
    assert own_instructions(profile, Path("/build/lynx_count")) == 113


def test_counts_repeat_and_both_ways_agree(driver_built: Driver) -> None:
    """Callgrind and single steps on the same AVX2 code; 0.2 % for the frame of the call, and for valgrind's reading."""
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed: apt-get install valgrind")
    driver = driver_built
    calls = [call for call in driver.calls if call.isa == "avx2" and call.runs][:2]
    if not calls:
        pytest.skip("this processor has no AVX2")
    counted, stepped = driver.counts(calls), driver.steps(calls)
    assert driver.counts(calls) == counted
    assert driver.steps(calls) == stepped
    for call, (steps, tiles) in stepped.items():
        assert steps > 1000
        assert tiles == 0
        assert abs(counted[call.key] - steps) <= 0.002 * steps


def test_tile_instructions_are_counted(driver_built: Driver) -> None:
    calls = [call for call in driver_built.calls if call.isa == "amx" and call.runs][:1]
    if not calls:
        pytest.skip("this compiler has no AMX, or this processor no AVX-512")
    counts = driver_built.counts(calls)
    assert driver_built.counts(calls) == counts
    every, tiles = counts[calls[0].key], counts[f"{calls[0].key}, tile instructions"]
    assert 0 < tiles < every
