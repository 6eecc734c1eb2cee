"""Triton kernels without a GPU: tests/interpreted.py in its own processes, and what is said where they cannot run."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lynx_engine import cuda, ops, registry
from lynx_engine.errors import LynxError

HERE = Path(__file__).resolve().parent
OP_FOLDERS = sorted(path.parent for path in (HERE.parent / "kernels").glob("*/cuda_triton.py"))
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: pip install 'lynx-engine[cuda]'"
)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("LYNX_BACKEND", raising=False)
    registry.refresh()
    yield monkeypatch
    monkeypatch.undo()
    registry.refresh()


@needs_triton
def test_every_kernel_by_the_interpreter() -> None:
    """Two halves of the tests at a time: the interpreter has one thread."""
    halves = [[*words] for words in (("attention",), ("not attention",))]
    command = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(HERE / "interpreted.py"), "-k")
    variables = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    variables.pop("LYNX_BACKEND", None)
    running = [
        subprocess.Popen([*command, *half], env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for half in halves
    ]
    for process in running:
        output, _ = process.communicate()
        assert process.returncode == 0, output[-5000:]
        assert " passed" in output


@needs_triton
@pytest.mark.parametrize("folder", OP_FOLDERS, ids=lambda folder: folder.name)
def test_a_file_has_a_kernel_for_each_entry_that_says_so(folder: Path) -> None:
    module = importlib.import_module(f"lynx_engine.kernels.{folder.name}.cuda_triton")
    declared = {
        name
        for name, op in registry.ops().items()
        if "cuda_triton" in {b.name for b in op.backends}
        and op.backends[-1].run.__module__.split(".")[2] == folder.name
    }
    assert set(module.KERNELS) == declared
    assert {case.arch for case in module.STATIC_CASES} == {80, 90}


def test_a_machine_that_cannot_run_them_says_why(environment: pytest.MonkeyPatch) -> None:
    x = torch.ones(2, 4)
    environment.setattr(torch.cuda, "is_available", lambda: False)
    registry.refresh()
    with pytest.raises(LynxError, match=r"swiglu: cuda_triton: (no CUDA device here|triton is not installed)"):
        ops.swiglu(x, x, backend="cuda_triton")
    environment.setattr(importlib.util, "find_spec", lambda name: None)
    registry.refresh()
    with pytest.raises(LynxError, match=r"swiglu: cuda_triton: triton is not installed \(pip install 'lynx-engine"):
        ops.swiglu(x, x, backend="cuda_triton")


def test_auto_takes_only_what_ran_on_hardware(environment: pytest.MonkeyPatch) -> None:
    op = registry.ops()["swiglu"]
    assert "cuda_triton" not in {backend.name for backend in op.candidates("auto")}
    assert op.candidates("cuda_triton")[0].only_by_name() == "not yet run on hardware, so only by name"
    environment.setattr(cuda, "PROVEN", {"swiglu": "NVIDIA H100, 2026-12-01, 0123abc"})
    names = [backend.name for backend in op.candidates("auto")]
    assert names[-2:] == ["cuda_triton", "reference"]
    environment.setattr(cuda, "PROVEN", {})
    environment.setenv("LYNX_BACKEND", "cuda_triton,reference")
    registry.refresh()
    assert [backend.name for backend in op.candidates("auto")] == ["cuda_triton", "reference"]


@pytest.mark.parametrize("value", ["yes", "2"])
def test_a_bad_switch_is_named(value: str, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("TRITON_INTERPRET", value)
    registry.refresh()
    with pytest.raises(LynxError, match=f"TRITON_INTERPRET must be one of 0, 1, got '{value}'"):
        cuda.interprets()
