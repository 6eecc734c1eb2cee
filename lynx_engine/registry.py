"""Ops and their backends: an ordered choice that explains itself.

An `Op` is one entry point (`adapter_mlp`, `adapter_mlp_backward`, ...). Its backends stand in order of preference, the
reference last. "auto" takes the first that can run the call; a backend asked for by name runs or raises.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from . import cuda, native
from .eager import eager
from .env import settings
from .errors import LynxError

LIBRARY = torch.library.Library("lynx", "FRAGMENT")
REFERENCE = "reference"


class Takes(NamedTuple):
    """What a kernel takes: tensors of these dtypes, in the memory of this kind of device."""

    dtypes: frozenset[torch.dtype]
    device: str = "cpu"


@dataclass(frozen=True)
class Backend:
    """One way to run an op.

    run(*args): the op. machine_refusals(): every reason why no call can run in this process; empty if some can.
    call_refusals(*args): every reason why this call cannot run. only_by_name(): why "auto" passes it over, if it does.
    kernel: the compiled function below `run`, if any.
    """

    name: str
    run: Callable[..., Any]
    machine_refusals: Callable[[], Sequence[str]] = tuple
    call_refusals: Callable[..., Sequence[str]] = lambda *args: ()
    only_by_name: Callable[[], str] = str
    kernel: Callable[..., None] | None = None

    def refusals(self, *args: Any) -> list[str]:
        return [*self.machine_refusals(), *self.call_refusals(*args)]


class Op:
    """An entry point with ordered backends; every Op is in `registry.ops()`.

    reference(*args)            plain torch, any device and floating dtype
    native(kernel, *args)       the same call through a compiled function of csrc (its outputs are allocated here)
    refusals(takes, *args)      why a kernel that takes what `takes` says cannot run these arguments
    triton: the op's folder has a cuda_triton.py with a kernel for this entry, called as the compiled functions are.
    """

    def __init__(
        self,
        name: str,
        *,
        reference: Callable[..., Any],
        native: Callable[..., Any],
        refusals: Callable[..., Sequence[str]],
        triton: bool = False,
    ) -> None:
        self.name = name
        self._reference = reference
        self._native = native
        self._refusals = refusals
        self._triton = triton
        self.last_used: str | None = None
        _OPS[name] = self

    @functools.cached_property
    def backends(self) -> tuple[Backend, ...]:
        """All backends that this build has, the preferred first."""
        compiled = [self._compiled(name, *entry) for name, entry in native.kernels(self.name).items()]
        return (*compiled, *([self._cuda_triton()] if self._triton else []), Backend(REFERENCE, self._reference))

    def _compiled(self, name: str, kernel: Callable[..., Any], dtypes: frozenset[torch.dtype]) -> Backend:
        return Backend(
            name,
            run=functools.partial(self._native, kernel),
            machine_refusals=functools.partial(native.isa_refusals, name.removeprefix("cpu_")),
            call_refusals=functools.partial(self._refusals, Takes(dtypes)),
            kernel=kernel,
        )

    def _cuda_triton(self) -> Backend:
        package = self._native.__module__.rpartition(".")[0]

        def call_refusals(*args: Any) -> Sequence[str]:
            if cuda.machine_refusals():  # there may be no triton to ask further
                return ()
            takes = Takes(cuda.DTYPES, "cpu" if cuda.interprets() else "cuda")
            return (*self._refusals(takes, *args), *cuda.kernel(package, self.name).refusals(*args))

        return Backend(
            "cuda_triton",
            run=functools.partial(cuda.run, package, self.name, self._native),
            machine_refusals=cuda.machine_refusals,
            call_refusals=call_refusals,
            only_by_name=functools.partial(cuda.only_by_name, self.name),
        )

    def __call__(self, backend: str, *args: Any) -> Any:
        chosen = self.choose(backend, *args)
        self.last_used = chosen.name
        return chosen.run(*args)

    def kernel(self, *args: Any) -> Callable[..., None] | None:
        """The compiled function that "auto" takes for this call, for who makes many alike; None for the reference."""
        chosen = self.choose("auto", *args)
        self.last_used = chosen.name
        return chosen.kernel

    def choose(self, backend: str, *args: Any) -> Backend:
        """The backend for this call. LynxError with all reasons if none of those asked for can run it."""
        for candidate in self._possible if backend == "auto" else self.candidates(backend):
            if not candidate.call_refusals(*args) and not candidate.machine_refusals():
                return candidate
        refused = [f"{b.name}: {'; '.join(b.refusals(*args))}" for b in self.candidates(backend)]
        raise LynxError(f"{self.name}: {' | '.join(refused)}")

    @functools.cached_property
    def _possible(self) -> tuple[Backend, ...]:
        """What "auto" chooses from, without those that this machine cannot run: a call does not ask them again."""
        return tuple(candidate for candidate in self.candidates("auto") if not candidate.machine_refusals())

    def candidates(self, backend: str) -> tuple[Backend, ...]:
        """The backends that `backend` allows, in the order to try. "auto": what LYNX_BACKEND says, else all but those
        that run only by name.

        Of several names in LYNX_BACKEND those count that the op has: not every op has one for every instruction set.
        """
        names = settings().backends if backend == "auto" else (backend,)
        if not names:
            return tuple(candidate for candidate in self.backends if not candidate.only_by_name())
        known = {b.name: b for b in self.backends}
        if len(names) > 1 and any(name in known for name in names):
            names = tuple(name for name in names if name in known or not _some_op_has(name))
        for name in names:
            if name not in known:
                here = f"backends here: auto, {', '.join(known)}{native.why_no_kernels()}"
                raise LynxError(f"{self.name}: unknown backend {name!r}; {here}")
        return tuple(known[name] for name in names)

    def why(self, *args: Any, backend: str = "auto") -> str:
        """One line a backend: chosen, able, or refused with every reason. Takes the op's positional arguments."""
        allowed = self.candidates(backend)
        chosen = next((candidate for candidate in allowed if not candidate.refusals(*args)), None)
        lines = [self.name]
        for candidate in self.backends:
            reasons = candidate.refusals(*args)
            if candidate not in allowed:
                reasons.append(candidate.only_by_name() or "not asked for")
            verdict = f"refused: {'; '.join(reasons)}" if reasons else "chosen" if candidate is chosen else "able"
            lines.append(f"  {candidate.name:<15} {verdict}")
        return "\n".join(lines)


_OPS: dict[str, Op] = {}


def ops() -> dict[str, Op]:
    """Every op that has been imported, by name (`import lynx_engine.ops` imports all)."""
    return dict(_OPS)


def _some_op_has(name: str) -> bool:
    return any(backend.name == name for op in _OPS.values() for backend in op.backends)


def refresh() -> None:
    """Decide anew which backends exist and can run, after the environment has changed."""
    native.refresh()
    cuda.refresh()
    for op in _OPS.values():
        op.__dict__.pop("backends", None)
        op.__dict__.pop("_possible", None)


def wrap_runs(wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put `wrap("op [backend]", run)` in the place of every backend's run, until `refresh`: for profilers' ranges."""
    for op in _OPS.values():
        op.__dict__["backends"] = tuple(
            dataclasses.replace(b, run=wrap(f"{op.name} [{b.name}]", b.run)) for b in op.backends
        )
        op.__dict__.pop("_possible", None)


def define(schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Gives torch the op `lynx::<schema>` for every device, with its shape function; returns what to call for it."""
    name = schema.split("(")[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"lynx::{name}", fake, lib=LIBRARY)
    return eager(getattr(torch.ops.lynx, name).default, implementation, mutates="!)" in schema)


def tensor_refusals(takes: Takes, first: torch.Tensor, *rest: torch.Tensor | None) -> Sequence[str]:
    """Why these tensors do not suit a kernel: all but None must share a dtype and a device, both of what it takes."""
    dtype, on_cpu = first.dtype, takes.device == "cpu"
    for tensor in (first, *rest):  # a loop, not all(...): a generator costs 1 us of a 7 us call
        if tensor is not None and (tensor.dtype is not dtype or tensor.is_cpu is not on_cpu):
            break
    else:
        if dtype in takes.dtypes and on_cpu:
            return ()
    tensors = [tensor for tensor in (first, *rest) if tensor is not None]
    got = sorted({str(t.dtype).removeprefix("torch.") for t in tensors})
    reasons = []
    if dtype not in takes.dtypes or len(got) > 1:
        wanted = " or ".join(sorted(str(d).removeprefix("torch.") for d in takes.dtypes))
        reasons.append(f"needs {wanted} throughout (got {', '.join(got)})")
    devices = sorted({t.device.type for t in tensors} - {takes.device})
    if devices:
        memory = "CPU memory" if on_cpu else "CUDA memory"
        reasons.append(f"needs tensors in {memory} (got {', '.join(devices)})")
    elif len({t.device for t in tensors}) > 1:
        reasons.append(f"needs tensors on one device (got {', '.join(sorted({str(t.device) for t in tensors}))})")
    return reasons
