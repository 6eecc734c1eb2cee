"""Profilers from outside: py-spy and perf look at this process, ncu and compute-sanitizer run it once more."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.command import finished
from lynx_engine.errors import LynxError

SAMPLERS = ("py-spy", "perf")
INSTALL = "install one: pip install py-spy, or perf from your distribution (Debian: linux-perf)"
_RATE = "250"  # samples a second
_PR_SET_PTRACER, _ANY_PROCESS = 0x59616D61, 2**64 - 1  # linux/prctl.h


@dataclass(frozen=True)
class Tool:
    """A command that runs `python -m bench.profile ... --bare` under a tool."""

    name: str
    command: list[str]

    @property
    def present(self) -> bool:
        return program(self.name) is not None


def program(name: str) -> str | None:
    """The program that pip put beside this Python, which need not be on PATH, else the one on PATH."""
    places = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    return shutil.which(name, path=places)


def sampler(wanted: str) -> str:
    """Which of SAMPLERS to take for "auto", or the one wanted if it is here. LynxError tells how to install one."""
    names = SAMPLERS if wanted == "auto" else (wanted,)
    for name in names:
        if program(name) is not None:
            return name
    raise LynxError(f"no CPU flame graph: {' and '.join(names)} not found; {INSTALL}")


def flame_graph(name: str, repeat_while: Callable[[Callable[[], bool]], object], seconds: float, stem: Path) -> Path:
    """Let py-spy or perf look at this process for so long while it repeats the work; the file written.

    Native frames are included, imports and inputs are not: they are over. py-spy draws an SVG of the Python threads;
    perf sees every thread, and its samples are written as text, which speedscope and the Firefox Profiler draw.
    """
    found = program(name)
    if found is None:
        raise LynxError(f"{name} not found; {INSTALL}")
    stem.parent.mkdir(parents=True, exist_ok=True)
    pid, duration = str(os.getpid()), str(max(1, round(seconds)))
    if name == "py-spy":
        path = stem.with_name(stem.name + ".flame.svg")
        options = ("--native", "--function", "--rate", _RATE, "--duration", duration)
        _sample([found, "record", *options, "--output", str(path), "--pid", pid], repeat_while)
        return path
    data, path = (stem.with_name(stem.name + suffix) for suffix in (".perf.data", ".perf.txt"))
    _sample(
        [found, "record", "-F", _RATE, "-g", "-N", "-o", str(data), "--pid", pid, "--", "sleep", duration], repeat_while
    )
    path.write_text(finished(found, "script", "-i", data).stdout, encoding="utf-8")
    return path


def _sample(command: Sequence[str], repeat_while: Callable[[Callable[[], bool]], object]) -> None:
    """Repeat the work until `command`, a child that looks at this process, has ended. LynxError if it fails."""
    # Linux lets only ancestors look into a process, unless it allows others.
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(_ANY_PROCESS), 0, 0, 0)
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            repeat_while(lambda: process.poll() is None)
        finally:
            process.terminate()
        if process.wait() != 0:
            output.seek(0)
            raise LynxError(f"{shlex.join(command)}: exit code {process.returncode}: {output.read()[-600:]}")


def gpu_tools(bare: Sequence[str], stem: Path) -> list[Tool]:
    """Nsight Compute on every kernel, and the four checkers of compute-sanitizer."""
    report = stem.with_name(stem.name + ".ncu-rep")
    ncu = ["ncu", "--set", "full", "--nvtx", "--target-processes", "all", "--force-overwrite", "--export", str(report)]
    checks = ("memcheck", "racecheck", "initcheck", "synccheck")
    checkers = [["compute-sanitizer", "--tool", check, "--error-exitcode", "1"] for check in checks]
    return [Tool("ncu", [*ncu, *bare]), *(Tool(command[0], [*command, *bare]) for command in checkers)]


def run_tool(tool: Tool) -> int:
    """Run it with its output on this terminal; its exit code."""
    found = program(tool.name)
    assert found is not None
    return subprocess.run([found, *tool.command[1:]], check=False).returncode
