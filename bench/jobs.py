"""Which calls to measure: registry x cases, narrowed by what the command line names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from lynx_engine import cuda, native, ops, registry
from lynx_engine.cases import MODES, Case, Suite
from lynx_engine.errors import LynxError
from lynx_engine.registry import Backend

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Job:
    """One call to measure; `backend` as the op's `backend=` takes it."""

    suite: Suite
    case: Case
    dtype: torch.dtype
    mode: str
    backend: str
    device: str

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return f"{self.suite.op} {self.case.name} {self.dtype_name} {self.mode} {self.backend}"


@dataclass(frozen=True)
class Choice:
    """What the command line names; None leaves a dimension open. `case` is a part of the names of cases.

    backend: "auto", a name, or "all" for every compiled one that this machine runs.
    """

    op: str | None = None
    case: str | None = None
    backend: str = "auto"
    dtype: str | None = None
    mode: str = "forward"
    device: str = "cpu"

    def jobs(self) -> list[Job]:
        """In the order of the tables. LynxError for a name that does not exist or a backend that cannot run here."""
        _known("mode", self.mode, (*MODES, "all"))
        _known("device", self.device, ("cpu", "cuda"))
        if self.device == "cuda" and not torch.cuda.is_available():
            raise LynxError("--device cuda: torch sees no GPU here")
        if self.dtype is not None:
            _known("dtype", self.dtype, DTYPES)
        found = [job for suite in self._suites() for job in self._jobs_of(suite)]
        if not found:
            raise LynxError(f"nothing to measure: no backend {self.backend!r} takes {self.dtype or 'any dtype'} here")
        return found

    def _suites(self) -> list[Suite]:
        measured = [suite for suite in ops.suites() if any(self.device in case.bench for case in suite.cases)]
        if self.op is not None:
            _known("op", self.op, sorted({suite.op for suite in measured}))
        chosen = [suite for suite in measured if self.op in (None, suite.op)]
        names = [case.name for suite in chosen for case in self._measured(suite)]
        if self.case is not None and not any(_matches(self.case, name) for name in names):
            raise LynxError(f"no case has {self.case!r} in its name; cases: {', '.join(names)}")
        return chosen

    def _measured(self, suite: Suite) -> list[Case]:
        return [case for case in suite.cases if self.device in case.bench]

    def _jobs_of(self, suite: Suite) -> Iterator[Job]:
        for case in self._measured(suite):
            if self.case is not None and not _matches(self.case, case.name):
                continue
            for dtype in suite.dtypes:
                if self.dtype is None or DTYPES[self.dtype] is dtype:
                    for backend in self._backends(suite, dtype):
                        for mode in MODES if self.mode == "all" else (self.mode,):
                            if mode == "forward" or suite.differentiable:
                                yield Job(suite, case, dtype, mode, backend, self.device)

    def _backends(self, suite: Suite, dtype: torch.dtype) -> list[str]:
        if self.backend == "auto":
            return ["auto"]
        backends = {backend.name: backend for backend in registry.ops()[suite.op].backends}
        if self.backend == "all":
            here = {name: b for name, b in backends.items() if name.startswith(f"{self.device}_")}
            return [name for name, backend in here.items() if _runs(suite, backend, dtype)]
        _known("backend", self.backend, ("auto", "all", *backends))
        refused = backends[self.backend].machine_refusals()
        if refused:
            raise LynxError(f"--backend {self.backend}: {'; '.join(refused)}; here: {', '.join(_here(suite))}")
        return [self.backend] if _runs(suite, backends[self.backend], dtype) else []


def _matches(part: str, name: str) -> bool:
    """`part` stands in `name` and does not end inside a number: T=7 is not T=72."""
    at = name.find(part)
    after = name[at + len(part) : at + len(part) + 1]
    return at >= 0 and not (part[-1:].isdigit() and after.isdigit())


def _here(suite: Suite) -> list[str]:
    return [backend.name for backend in registry.ops()[suite.op].backends if not backend.machine_refusals()]


def _runs(suite: Suite, backend: Backend, dtype: torch.dtype) -> bool:
    """Whether a backend is worth a clock here: emulation and interpreters prove a kernel, not its speed."""
    imitated = {"cpu_amx": native.emulates_amx(), "cuda_triton": cuda.interprets()}
    if backend.machine_refusals() or imitated.get(backend.name, False):
        return False
    entry = native.kernels(suite.op).get(backend.name)
    return entry is None or dtype in entry[1]


def _known(what: str, name: str, names: Iterable[str]) -> None:
    if name not in names:
        raise LynxError(f"unknown {what} {name!r}; there are: {', '.join(names)}")
