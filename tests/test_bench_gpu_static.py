"""bench.gpu_static on the sample kernels of tests/data/gpu: a planted spill and a lost instruction are caught."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import gpu_build, gpu_static
from bench.gpu_build import Built, entries, is_instruction, static_lines
from bench.gpu_static import GpuStatic, broken_limits, build_all, changes, record, unrecorded_compilers
from lynx_engine.errors import LynxError

SAMPLES = Path(__file__).resolve().parent / "data" / "gpu"
KERNEL = Built("op/cuda_sm90.cu f", "nvcc 13.0.88", 90, 64, 0, 0, 0, 1024, 2048, {"HGMMA": 4})
Plant = Callable[[str, str], Path]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A folder of kernels with one file, a sample in which one text is changed for another."""

    def planted(old: str, new: str) -> Path:
        source = next(path for path in SAMPLES.glob("*/*.*") if old in path.read_text())
        target = tmp_path / "kernels" / "sample" / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text().replace(old, new))
        return target.parent.parent

    return planted


def need_cuda() -> None:
    for tool in ("nvcc", "cuobjdump"):
        try:
            gpu_build.program(tool, "see bench/gpu_build.py")
        except LynxError as error:
            pytest.skip(str(error))


def need_triton() -> None:
    pytest.importorskip("triton", reason="triton is not installed: pip install triton")


@pytest.mark.parametrize(
    ("need", "old", "new", "caught"),
    [
        (need_cuda, "__launch_bounds__(Threads)", "__launch_bounds__(1024, 2)", "spills: "),
        (need_cuda, "sass=LDGSTS", "sass=HGMMA,LDGSTS", "no HGMMA instruction"),
        (need_cuda, "dynamic_shared=65536", "dynamic_shared=232449", "sm_90 has 232448"),
        (need_triton, '"M": 64, "N": 128', '"M": 128, "N": 256', "spills: "),
        (need_triton, "tl.dot(a_tile, b_tile, sums)", "sums + tl.sum(a_tile) + tl.sum(b_tile)", "no HGMMA instruction"),
        (need_triton, '"STEP": 64', '"STEP": 256', "sm_90 has 232448"),
    ],
    ids=["cuda spill", "cuda instruction", "cuda shared", "triton spill", "triton instruction", "triton shared"],
)
def test_a_planted_fault_is_caught(need: Callable[[], None], old: str, new: str, caught: str, plant: Plant) -> None:
    need()
    kernels = build_all(plant(old, new))
    assert [reason for kernel in kernels for reason in broken_limits(kernel) if caught in reason]


@pytest.mark.parametrize(("need", "file"), [(need_cuda, "cuda_sm90.cu"), (need_triton, "cuda_triton.py")])
def test_the_samples_are_clean(need: Callable[[], None], file: str, plant: Plant) -> None:
    """Or the planted faults would prove nothing."""
    need()
    mark = "// static:" if file.endswith(".cu") else "STATIC_CASES"
    kernels = build_all(plant(mark, mark))
    assert kernels
    assert all(file in kernel.name and kernel.registers > 0 for kernel in kernels)
    assert {kernel.name: broken_limits(kernel) for kernel in kernels} == {kernel.name: [] for kernel in kernels}


def test_a_broken_limit_is_never_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gpu.json"
    kernels = [KERNEL]
    monkeypatch.setattr(gpu_static, "build_all", lambda folder: kernels)
    assert GpuStatic(file=file).run() == 1
    assert "not recorded" in capsys.readouterr().out
    assert GpuStatic(file=file, update=True).run() == 0
    assert GpuStatic(file=file).run() == 0
    before = file.read_text()
    kernels[0] = dataclasses.replace(KERNEL, spill_stores=8)
    capsys.readouterr()
    for update in (False, True):
        assert GpuStatic(file=file, update=update).run() == 1
        assert "spills: 8 bytes" in capsys.readouterr().out
    assert file.read_text() == before


def test_limits() -> None:
    assert broken_limits(KERNEL) == []
    assert broken_limits(dataclasses.replace(KERNEL, shared_dynamic=232_448 - 1024)) == []
    assert broken_limits(dataclasses.replace(KERNEL, shared_dynamic=232_448)) != []
    assert broken_limits(dataclasses.replace(KERNEL, arch=80, shared_dynamic=200_000)) != []
    assert broken_limits(dataclasses.replace(KERNEL, spill_loads=4)) != []
    assert broken_limits(dataclasses.replace(KERNEL, sass={"HGMMA": 0})) == ["no HGMMA instruction"]


def test_a_change_is_seen_by_the_recorded_compiler_alone() -> None:
    recorded = {KERNEL.name: record(KERNEL)}
    changed = dataclasses.replace(KERNEL, registers=72)
    assert changes(recorded, [KERNEL]) == {}
    assert changes(recorded, [changed]) == {KERNEL.name: ["registers: 64 recorded, now 72"]}
    assert changes({}, [KERNEL]) == {KERNEL.name: ["not recorded"]}
    assert changes(recorded, []) == {KERNEL.name: ["recorded, but no kernel any more"]}
    other = dataclasses.replace(changed, compiler="nvcc 13.1.0")
    assert changes(recorded, [other]) == {}
    assert unrecorded_compilers(recorded, [other]) == ["nvcc 13.1.0"]


def test_without_kernels_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert GpuStatic(kernels=tmp_path, file=tmp_path / "gpu.json").run() == 0
    assert "no GPU kernels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("// static:", "wanted // static: NAME"),
        ("// static: f dynamic_shared=48K", "wanted // static: NAME"),
        ("// static: f regs=3", "wanted // static: NAME"),
    ],
)
def test_a_bad_static_line_is_named(text: str, message: str, tmp_path: Path) -> None:
    source = tmp_path / "cuda_sm90.cu"
    source.write_text(f"{text}\n")
    with pytest.raises(LynxError, match=message):
        static_lines(source)


def test_a_kernel_without_a_static_line_is_named(plant: Plant, tmp_path: Path) -> None:
    need_cuda()
    kernels = plant("// static: scale ", "// static: scal ")
    with pytest.raises(LynxError, match="lines differ in scal, scale"):
        GpuStatic(kernels=kernels, file=tmp_path / "gpu.json").run()


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    with pytest.raises(LynxError, match="arch one of 80, 90"):
        gpu_build.build_cuda(tmp_path / "cuda_sm75.cu", tmp_path)


def test_a_missing_tool_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LynxError, match="nvcc-of-nowhere is not installed; install the CUDA toolkit"):
        gpu_build.program("nvcc-of-nowhere", "install the CUDA toolkit")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LynxError, match="pip install triton"):
        gpu_build.build_triton(SAMPLES / "sample" / "cuda_triton.py")


def test_the_words_of_ptxas() -> None:
    log = """ptxas info    : Compiling entry function '_Z1fPf' for 'sm_90a'
ptxas info    : Function properties for _Z1fPf
    160 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 31 registers, used 1 barriers, 160 bytes cumulative stack size, 2048 bytes smem, 64 bytes cmem[2]
ptxas info    : Compiling entry function '_Z1gPf' for 'sm_90a'
ptxas info    : Function properties for _Z1gPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 16 registers, used 0 barriers
"""
    f = {"stack": 160, "spill_stores": 8, "spill_loads": 12, "registers": 31, "shared_static": 2048}
    assert entries(log) == {"_Z1fPf": f, "_Z1gPf": {**dict.fromkeys(f, 0), "registers": 16}}


def test_an_instruction_is_known_by_its_parts() -> None:
    assert is_instruction("LDG.E.128.CONSTANT", "LDG.128")
    assert is_instruction("HGMMA.64x128x16.F32.BF16", "HGMMA")
    assert not is_instruction("LDG.E.64", "LDG.128")
    assert not is_instruction("LDGSTS.E.BYPASS.128", "LDG.128")
