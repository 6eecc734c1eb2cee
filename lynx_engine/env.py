"""The environment variables that lynx_engine reads, all of them here. A bad value is a LynxError that names it.

LYNX_BACKEND      backend of every op instead of "auto"; several, separated by commas, are tried in that order, those
                  that an op has (cpu_amx,cpu_avx512: tiles, and AVX-512 in ops that multiply no matrices)
LYNX_CPU_ISA      avx2, avx512, avx512_bf16 or amx: use no instruction set above this one
LYNX_NUM_THREADS  threads of the CPU kernels; default: the processors that this process may run on
LYNX_EMULATE_AMX  1: `cpu_amx` runs on emulated tiles where the machine has none (slow; it proves the kernels)
TRITON_INTERPRET  Triton's own switch; 1: `cuda_triton` runs on CPU tensors by its interpreter (slow; it proves them)
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from .errors import LynxError

CPU_ISAS = ("avx2", "avx512", "avx512_bf16", "amx")


@dataclass(frozen=True)
class Settings:
    """What the environment asks for; None or () where it says nothing."""

    backends: tuple[str, ...] = ()
    cpu_isa: str | None = None
    num_threads: int | None = None
    emulate_amx: bool = False
    triton_interpret: bool = False


@functools.cache
def settings() -> Settings:
    """The settings, read once at first use (`settings.cache_clear()` reads them anew)."""
    return Settings(
        backends=tuple(name.strip() for name in os.environ.get("LYNX_BACKEND", "").split(",") if name.strip()),
        cpu_isa=_choice("LYNX_CPU_ISA", CPU_ISAS),
        num_threads=_positive_int("LYNX_NUM_THREADS"),
        emulate_amx=_choice("LYNX_EMULATE_AMX", ("0", "1")) == "1",
        triton_interpret=_choice("TRITON_INTERPRET", ("0", "1")) == "1",
    )


def _choice(name: str, allowed: tuple[str, ...]) -> str | None:
    value = os.environ.get(name) or None
    if value is not None and value not in allowed:
        raise LynxError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return value


def _positive_int(name: str) -> int | None:
    value = os.environ.get(name) or None
    if value is None:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise LynxError(f"{name} must be a whole number of at least 1, got {value!r}")
    return int(value)
