"""python tests/sanitized.py [pytest arguments]: the kernels' tests, or those named, under ASan and UBSan.

The build lies in build/sanitize beside the ordinary one. The sanitizers' runtimes must be in the process before any
library, hence a second process with LD_PRELOAD: torch then allocates from ASan's heap, and a kernel that reads or
writes one byte beside a tensor, or beside its workspace, ends it with a report.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pybind11
import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "sanitize"
RUNTIMES = ("libasan.so", "libubsan.so", "libstdc++.so")  # the last so that ASan finds the throw that it intercepts
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",  # Python and torch keep memory until the end of the process
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "LYNX_EMULATE_AMX": "1",
    "LYNX_NUM_THREADS": "2",
}
KERNEL_TESTS = ("ops", "ops_torch", "native", "gemm", "linear", "quantized_linear", "adapter_mlp", "prefix_attention")
KERNEL_TESTS += ("paged_attention", "patch_embed", "rope", "cross_entropy", "eager", "model_linear", "model_step")


def build() -> Path:
    """The path of the sanitized `_C`."""
    cmake = ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja", "-DLYNX_SANITIZE=ON"]
    cmake += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])  # pip's cmake, ninja
    for command in (cmake, ["cmake", "--build", str(BUILD), "--target", "_C"]):
        subprocess.run(command, check=True, env={**os.environ, "PATH": path})
    return next(BUILD.glob("_C*.so"))


def runtimes() -> str:
    """LD_PRELOAD's value: the runtimes of the compiler that built."""
    cache = (BUILD / "CMakeCache.txt").read_text()
    compiler = next(line.partition("=")[2] for line in cache.splitlines() if line.startswith("CMAKE_CXX_COMPILER:"))
    paths = [subprocess.check_output([compiler, f"-print-file-name={name}"], text=True).strip() for name in RUNTIMES]
    missing = [path for path in paths if not Path(path).is_absolute()]
    if missing:
        raise SystemExit(f"{compiler} has no {', '.join(missing)}: make sanitize needs g++ and its sanitizers")
    return " ".join(paths)


def run(library: str, arguments: list[str]) -> int:
    """Pytest in this process, on `library` as lynx_engine._C."""
    loader = importlib.machinery.ExtensionFileLoader("lynx_engine._C", library)
    spec = importlib.util.spec_from_file_location(loader.name, library, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[loader.name] = module
    return pytest.main(["--capture=sys", *arguments])  # a report goes to the file descriptor, past Python


if __name__ == "__main__":
    if sys.argv[1:2] == ["--library"]:
        sys.exit(run(sys.argv[2], sys.argv[3:]))
    arguments = sys.argv[1:]
    if not any(".py" in argument for argument in arguments):
        arguments += [f"{ROOT}/tests/test_{name}.py" for name in KERNEL_TESTS]
    command = [sys.executable, __file__, "--library", str(build()), *arguments]
    os.execve(sys.executable, command, {**os.environ, **OPTIONS, "LD_PRELOAD": runtimes()})
