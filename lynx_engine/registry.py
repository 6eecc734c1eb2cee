"""Ops and their backends: an ordered choice that explains itself.

An `Op` is one entry point (`adapter_mlp`, `adapter_mlp_backward`, ...). Its backends stand in order of preference, the
reference last. "auto" takes the first that can run the call; a backend asked for by name runs or raises.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from . import native
from .eager import eager
from .env import settings
from .errors import LynxError

LIBRARY = torch.library.Library("lynx", "FRAGMENT")
REFERENCE = "reference"


@dataclass(frozen=True)
class Backend:
    """One way to run an op.

    run(*args): the op. machine_refusals(): every reason why no call can run in this process; empty if some can.
    call_refusals(*args): every reason why this call cannot run. kernel: the compiled function below `run`, if any.
    """

    name: str
    run: Callable[..., Any]
    machine_refusals: Callable[[], Sequence[str]] = tuple
    call_refusals: Callable[..., Sequence[str]] = lambda *args: ()
    kernel: Callable[..., None] | None = None

    def refusals(self, *args: Any) -> list[str]:
        return [*self.machine_refusals(), *self.call_refusals(*args)]


class Op:
    """An entry point with ordered backends; every Op is in `registry.ops()`.

    reference(*args)            plain torch, any device and floating dtype
    native(kernel, *args)       the same call through a compiled function of csrc (its outputs are allocated here)
    refusals(dtypes, *args)     why a compiled kernel that takes `dtypes` cannot run these arguments
    """

    def __init__(
        self,
        name: str,
        *,
        reference: Callable[..., Any],
        native: Callable[..., Any],
        refusals: Callable[..., Sequence[str]],
    ) -> None:
        self.name = name
        self._reference = reference
        self._native = native
        self._refusals = refusals
        self.last_used: str | None = None
        _OPS[name] = self

    @functools.cached_property
    def backends(self) -> tuple[Backend, ...]:
        """All backends that this build has, the preferred first."""
        compiled = [self._compiled(name, *entry) for name, entry in native.kernels(self.name).items()]
        return (*compiled, Backend(REFERENCE, self._reference))

    def _compiled(self, name: str, kernel: Callable[..., Any], dtypes: frozenset[torch.dtype]) -> Backend:
        return Backend(
            name,
            run=functools.partial(self._native, kernel),
            machine_refusals=functools.partial(native.isa_refusals, name.removeprefix("cpu_")),
            call_refusals=functools.partial(self._refusals, dtypes),
            kernel=kernel,
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
        """The backends that `backend` allows, in the order to try: all for "auto", unless LYNX_BACKEND says which.

        Of several names in LYNX_BACKEND those count that the op has: not every op has one for every instruction set.
        """
        names = settings().backends if backend == "auto" else (backend,)
        if not names:
            return self.backends
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
            reasons = candidate.refusals(*args) + ([] if candidate in allowed else ["not asked for"])
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


def tensor_refusals(dtypes: frozenset[torch.dtype], first: torch.Tensor, *rest: torch.Tensor | None) -> Sequence[str]:
    """Why these tensors do not suit a CPU kernel: all but None must share one of `dtypes` and lie in CPU memory."""
    dtype = first.dtype
    for tensor in (first, *rest):  # a loop, not all(...): a generator costs 1 us of a 7 us call
        if tensor is not None and (tensor.dtype is not dtype or not tensor.is_cpu):
            break
    else:
        if dtype in dtypes:
            return ()
    tensors = [tensor for tensor in (first, *rest) if tensor is not None]
    got = sorted({str(t.dtype).removeprefix("torch.") for t in tensors})
    reasons = []
    if dtype not in dtypes or len(got) > 1:
        wanted = " or ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
        reasons.append(f"needs {wanted} throughout (got {', '.join(got)})")
    devices = sorted({t.device.type for t in tensors} - {"cpu"})
    if devices:
        reasons.append(f"needs tensors in CPU memory (got {', '.join(devices)})")
    return reasons
