"""Instruction counts of calls of bench/native's driver: by callgrind, and by single steps where callgrind cannot."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.command import ROOT, finished
from lynx_engine.errors import LynxError

_COUNTED = "lynx_counted_call"


@dataclass(frozen=True)
class Call:
    """One call that the driver offers, by its number there; `runs`: this processor has the instruction set."""

    number: int
    isa: str
    op: str
    name: str
    runs: bool

    @property
    def key(self) -> str:
        return f"{self.op} {self.isa} {self.name}"


@dataclass(frozen=True)
class Driver:
    """The built driver, the compiler that built it and the kernels, and its calls."""

    program: Path
    compiler: str
    calls: tuple[Call, ...]

    def counts(self, calls: list[Call]) -> dict[str, int]:
        """Instructions of each call: AVX2 by callgrind, which knows no later set; the others by single steps.

        A call of an AMX kernel has a second count, of its tile instructions: they do the work of hundreds of others and
        would be lost among them.
        """
        by_callgrind = [call for call in calls if call.isa == "avx2"]
        counts = {call.key: n for call, n in zip(by_callgrind, self._callgrind(by_callgrind), strict=True)}
        for call, (every, tiles) in self.steps([call for call in calls if call.isa != "avx2"]).items():
            counts[call.key] = every
            if call.isa == "amx":
                counts[f"{call.key}, tile instructions"] = tiles
        return counts

    def steps(self, calls: list[Call]) -> dict[Call, tuple[int, int]]:
        """Instructions of each call by single steps, and those of them that are AMX's."""
        lines = finished(self.program, "step", *(str(call.number) for call in calls)).stdout.splitlines()
        pairs = (map(int, line.split()) for line in lines)
        return {call: (every, tiles) for call, (every, tiles) in zip(calls, pairs, strict=True)}

    def _callgrind(self, calls: list[Call]) -> list[int]:
        if not calls:
            return []
        valgrind = shutil.which("valgrind")
        if valgrind is None:
            raise LynxError("valgrind is not installed; it counts the AVX2 kernels: apt-get install valgrind")
        with tempfile.TemporaryDirectory(prefix="lynx-callgrind-") as folder:
            out = Path(folder) / "out"
            finished(
                *(valgrind, "--tool=callgrind", f"--toggle-collect={_COUNTED}", f"--dump-after={_COUNTED}"),
                *("--compress-strings=no", "--compress-pos=no", f"--callgrind-out-file={out}"),
                self.program,
                "call",
                *(str(call.number) for call in calls),
            )
            profiles = [out.with_name(f"out.{number}") for number in range(1, len(calls) + 1)]
            return [own_instructions(profile.read_text(encoding="utf-8"), self.program) for profile in profiles]


def own_instructions(profile: str, program: Path) -> int:
    """Instructions in the text of `program` itself, from a callgrind profile without compressed names.

    Not those of the C library, whose memcpy and memset choose their code by processor.
    """
    total, own, of_callee = 0, False, False
    for line in profile.splitlines():
        if line.startswith("ob="):
            own = line == f"ob={program}"
        elif line.startswith("calls="):
            of_callee = True  # the next line is the cost of the function that was called, counted where it stands
        elif line[:1].isdigit():
            total += int(line.split()[1]) if own and not of_callee else 0
            of_callee = False
    return total


def build_driver() -> Driver:
    """Builds lynx_count beside lynx_engine._C, in setup.py's build folder, from the same object files."""
    folder = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
    cmake, ninja = tool("cmake"), tool("ninja")
    import pybind11

    finished(  # anew every time: the folder may remember the cmake of a build environment that is gone
        *(cmake, "-S", ROOT, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"),
        *(f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}"),
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    )
    finished(cmake, "--build", folder, "--target", "lynx_count")
    return read_driver(folder / "bench" / "native" / "lynx_count")


def read_driver(program: Path) -> Driver:
    """What a built driver says of itself."""
    (_, compiler), *lines = (line.split("\t") for line in finished(program, "list").stdout.splitlines())
    calls = [Call(number, isa, op, name, runs == "runs") for number, (isa, op, name, runs) in enumerate(lines)]
    return Driver(program, compiler, tuple(call for call in calls if call.isa != "amx_emulated"))


def tool(name: str) -> str:
    """The program beside this Python, else the one on PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise LynxError(f"{name} is not installed; it builds the driver of bench/native: pip install {name}")
    return found
