"""Compiles csrc/cpu for one ISA and loads it, so that Python can hold each primitive against its definition."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
AVX2 = ("-mavx2", "-mfma")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
FLAGS = {
    "avx2": AVX2,
    "avx512": AVX512,
    "avx512_bf16": (*AVX512, "-mavx512bf16", "-mavx512vnni"),
    "amx": (*AVX512, "-mamx-tile", "-mamx-bf16"),
    "amx_emulated": (*AVX512, "-DLYNX_EMULATE_TILES"),
}
NEEDS = {
    "avx2": {"avx2", "fma"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx512_bf16": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "avx512_vnni"},
    "amx": {"amx_tile", "amx_bf16"},
    "amx_emulated": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
}


@functools.cache
def build_folder() -> tempfile.TemporaryDirectory[str]:
    """Lives as long as the test process."""
    return tempfile.TemporaryDirectory(prefix="lynx-vocabulary-")


def compile_for(isa: str, source: Path, output: str, *options: str) -> Path:
    """Object or library of one source file with the flags of csrc/cpu/README.md."""
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        pytest.skip("no C++ compiler on this machine")
    path = Path(build_folder().name) / output
    flags = ("-std=c++17", "-ffp-contract=off", "-fPIC", "-w", f"-I{ROOT / 'csrc'}", *FLAGS[isa], *options)
    command = [compiler, *flags, str(source), "-o", str(path)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return path


@functools.cache
def library_path(isa: str) -> Path:
    return compile_for(isa, ROOT / "tests" / "cpu_vocabulary.cpp", f"{isa}.so", "-O2", "-shared")


@functools.cache
def vocabulary(isa: str) -> ctypes.CDLL:
    """The vocabulary of one ISA; skips where this processor cannot run it."""
    missing = NEEDS[isa] - processor_flags()
    if missing:
        pytest.skip(f"this processor has no {', '.join(sorted(missing))}")
    library = ctypes.CDLL(str(library_path(isa)))
    library.sum_of_lanes.restype = ctypes.c_float
    library.largest_lane.restype = ctypes.c_float
    return library


@functools.cache
def processor_flags() -> frozenset[str]:
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def pointer(array: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def size(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)
