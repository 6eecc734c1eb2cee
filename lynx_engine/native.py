"""The compiled module `lynx_engine._C`: loaded at first use, its instruction sets, its backends, its threads."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch

from .env import CPU_ISAS, settings
from .errors import LynxError

_NOT_BUILT = "lynx_engine._C is not built for this Python (pip install ., or python setup.py build_ext --inplace)"


@functools.cache
def module() -> ModuleType | None:
    """`lynx_engine._C`, or None if it was not built; then every op runs on its reference."""
    try:
        native = importlib.import_module("lynx_engine._C")
    except ModuleNotFoundError as error:
        if error.name != "lynx_engine._C":
            raise
        return None
    threads = settings().num_threads
    if threads is not None:
        native.set_num_threads(threads)
    return native


@functools.cache
def isa_refusals(isa: str) -> tuple[str, ...]:
    """Why code for `isa` (one of CPU_ISAS) cannot run in this process; empty if it can."""
    native = module()
    if native is None:
        return (_NOT_BUILT,)
    ceiling = settings().cpu_isa
    if ceiling is not None and CPU_ISAS.index(isa) > CPU_ISAS.index(ceiling):
        return (f"LYNX_CPU_ISA={ceiling} forbids {isa}",)
    features = native.cpu_features()
    if features[isa] or (isa == "amx" and emulates_amx()):
        return ()
    return (f"this processor or operating system has no {isa}",)


def why_no_kernels() -> str:
    """The end of a sentence about missing backends: empty where the compiled module is there."""
    return f"; {_NOT_BUILT}" if module() is None else ""


def emulates_amx() -> bool:
    """Whether `cpu_amx` means emulated tiles: asked for, not in hardware, and AVX-512 is there to emulate with."""
    native = module()
    if native is None or not settings().emulate_amx:
        return False
    features = native.cpu_features()
    return bool(features["avx512"] and not features["amx"])


def kernels(entry: str) -> Mapping[str, tuple[Callable[..., Any], frozenset[torch.dtype]]]:
    """The compiled functions of an op's entry by backend name ("cpu_amx", ..., "cpu_avx2": the preferred
    first), each with the dtypes that it takes. An op may lack any of them."""
    native = module()
    compiled = {} if native is None else native.backends.get(entry, {})
    found = {}
    for isa in reversed(CPU_ISAS):
        source = "amx_emulated" if isa == "amx" and emulates_amx() else isa
        if source in compiled:
            function, dtypes = compiled[source]
            found[f"cpu_{isa}"] = (function, frozenset(getattr(torch, name) for name in dtypes))
    return found


def refresh() -> None:
    """Forget what was decided from the environment; the next call reads it anew (tests and tools that change it)."""
    settings.cache_clear()
    module.cache_clear()
    isa_refusals.cache_clear()


def set_num_threads(n: int) -> None:
    """Use `n` threads in the kernels and in torch. LynxError if n < 1."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise LynxError(f"set_num_threads: wanted a whole number of at least 1, got {n!r}")
    torch.set_num_threads(n)
    native = module()
    if native is not None:
        native.set_num_threads(n)


def get_num_threads() -> int:
    """Threads that the CPU kernels use (torch's, where lynx_engine._C is not built)."""
    native = module()
    return torch.get_num_threads() if native is None else int(native.num_threads())
