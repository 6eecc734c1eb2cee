"""DESIGN law 4: nothing that is compiled for one instruction set can be run by a machine that has a lower one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cpu_vocabulary import ROOT, compile_for

# What the compiler itself defines in every object: a reference to the C++ runtime, no code.
COMPILERS_OWN = {"DW.ref.__gxx_personality_v0"}


def compilations() -> list[tuple[str, str]]:
    """(source, ISA) of every kernel file; cpu_amx.cpp is compiled for the hardware and for its emulation."""
    sources = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("kernels/*/cpu_*.cpp"))]
    pairs = [(source, Path(source).stem.removeprefix("cpu_")) for source in sources]
    return pairs + [(source, "amx_emulated") for source, isa in pairs if isa == "amx"]


@pytest.mark.parametrize(("source", "isa"), compilations())
def test_every_symbol_is_in_the_namespace_of_its_isa(source: str, isa: str) -> None:
    """Without optimisation, so that what might not be inlined is not: the linker could share such a function."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm (binutils) is not on this machine")
    path = compile_for(isa, ROOT / source, f"{source.replace('/', '-')}-{isa}.o", "-O0", "-c")
    listing = subprocess.run([nm, "--defined-only", "-g", str(path)], check=True, capture_output=True, text=True).stdout
    symbols = {line.split()[-1] for line in listing.splitlines()} - COMPILERS_OWN
    assert symbols, "no symbol at all"
    assert sorted(symbol for symbol in symbols if f"{len(isa)}{isa}" not in symbol) == []
