"""`python -m bench.profile --op OP | --e2e PRESET`: a trace, a flame graph, and the command lines of GPU profilers."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from bench.command import run_command
from bench.profiling.outside import flame_graph, gpu_tools, run_tool, sampler
from bench.profiling.trace import RangeTime, record, repeat_while
from bench.profiling.work import MODES, Work, model_work, op_work
from bench.text import duration
from lynx_engine import set_num_threads
from lynx_engine.errors import LynxError


@dataclass
class Profile:
    """Profile one op at Lynx's sizes, or one answer of a model.

    Writes a Chrome trace with ranges named like ops (ui.perfetto.dev or chrome://tracing opens it) and, on CPU, a flame
    graph with native frames; on a GPU prints the command lines of ncu and compute-sanitizer, or runs them.
    """

    op: str | None = None
    """Op to profile."""
    e2e: str | None = None
    """Model to profile instead: demo (an `ask` about the sample picture), or a preset as lynx_8b/8 (random weights)."""
    case: str = ""
    """Only cases with this in their names."""
    backend: str = "auto"
    """Backend of the op."""
    mode: str = "forward"
    """forward, backward or both."""
    dtype: str = "bfloat16"
    """Of the op's tensors, or of random weights."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the tensors are."""
    threads: int | None = None
    """CPU threads; without it all cores that this process may use."""
    repeat: int = 3
    """Calls of each case in the trace."""
    flame: Literal["auto", "py-spy", "perf", "none"] = "auto"
    """What samples the flame graph: auto takes py-spy, else perf, else says how to install one."""
    gpu_tools: Literal["print", "run"] = "print"
    """Whether to run ncu and compute-sanitizer, too; without a GPU neither."""
    out: Path = Path("runs/profile")
    """Folder to write."""
    seconds: float = 5.0
    """How long the flame graph looks."""
    bare: bool = False
    """Only run the work for so long, and write nothing: what a profiler from outside looks at."""

    def run(self) -> int:
        work = self._work()
        if self.bare:
            until = time.perf_counter() + self.seconds
            repeat_while(work, lambda: time.perf_counter() < until, ranges=True)
            return 0
        stem = self.out / work.name
        trace = stem.with_name(stem.name + ".trace.json")
        for line in _lines(record(work, self.repeat, trace)):
            print(line)
        print(f"{trace}: open it in ui.perfetto.dev or chrome://tracing")
        return self._on_gpu(stem) if self.device == "cuda" else self._on_cpu(work, stem)

    def _work(self) -> Work:
        if (self.op is None) == (self.e2e is None):
            raise LynxError("say what to profile: either --op OP or --e2e PRESET")
        if self.mode not in MODES:
            raise LynxError(f"unknown mode {self.mode!r}; modes: {', '.join(MODES)}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise LynxError("device cuda: torch finds no GPU here; devices: cpu")
        if self.threads is not None:
            set_num_threads(self.threads)
        if self.e2e is not None:
            return model_work(self.e2e, self.dtype, self.device)
        assert self.op is not None
        return op_work(self.op, self.case, self.backend, self.mode, self.dtype, self.device)

    def _bare_command(self) -> list[str]:
        """This command once more, to run every case once under a GPU tool."""
        options = {"case": self.case, "backend": self.backend, "mode": self.mode, "dtype": self.dtype}
        what = {"e2e": self.e2e} if self.op is None else {"op": self.op, **options}
        given = {**what, "device": self.device, "threads": self.threads, "seconds": 0.0}
        words = [word for name, value in given.items() if value not in (None, "") for word in (f"--{name}", str(value))]
        return [sys.executable, "-m", "bench.profile", *words, "--bare"]

    def _on_cpu(self, work: Work, stem: Path) -> int:
        if self.flame == "none":
            return 0
        try:
            name = sampler(self.flame)
        except LynxError as missing:
            if self.flame != "auto":
                raise
            print(missing)  # the trace is there: a machine without samplers has not failed
            return 0
        path = flame_graph(name, lambda more: repeat_while(work, more, ranges=False), self.seconds, stem)
        print(f"{path}: open it in {'a browser' if name == 'py-spy' else 'speedscope.app or profiler.firefox.com'}")
        return 0

    def _on_gpu(self, stem: Path) -> int:
        code = 0
        for tool in gpu_tools(self._bare_command(), stem):
            print(shlex.join(tool.command))
            if self.gpu_tools == "run":
                if not tool.present:
                    raise LynxError(f"{tool.name} not found: it comes with the CUDA toolkit")
                code = max(code, run_tool(tool))
        return code


def _lines(times: list[RangeTime]) -> list[str]:
    width = max(len(time.name) for time in times)
    heads = f"{'range':<{width}}  {'calls':>6}  {'a call':>9}  {'together':>9}"
    return [
        heads,
        *(
            f"{t.name:<{width}}  {t.calls:>6}  {duration(t.total_us / t.calls):>9}  {duration(t.total_us):>9}"
            for t in times
        ),
    ]


if __name__ == "__main__":
    sys.exit(run_command(Profile, "profile"))
