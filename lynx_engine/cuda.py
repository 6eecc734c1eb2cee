"""Triton kernels: found by their op's folder, imported at first use, and when "auto" may take one.

A kernels/<op>/cuda_triton.py gives KERNELS: entry of the registry -> `TritonKernel`. With TRITON_INTERPRET=1 the same
files run on CPU tensors through Triton's interpreter: slow; it proves the arithmetic where no GPU is.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .env import settings

DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})

# Entry of the registry -> the run that proved its kernel on hardware: GPU, date, commit. "auto" takes no other.
PROVEN: Mapping[str, str] = {}


@dataclass(frozen=True)
class TritonKernel:
    """launch(*args): the arguments of the entry's compiled function, outputs included; checks shapes, then launches.

    refusals(*args): what the kernel cannot do beyond the op's own reasons; takes the entry's arguments.
    """

    launch: Callable[..., None]
    refusals: Callable[..., Sequence[str]] = lambda *args: ()


@functools.cache
def machine_refusals() -> tuple[str, ...]:
    """Why no Triton kernel can run in this process; empty if they can."""
    if importlib.util.find_spec("triton") is None:
        return ("triton is not installed (pip install 'lynx-engine[cuda]')",)
    if not interprets() and not torch.cuda.is_available():
        return ("no CUDA device here (TRITON_INTERPRET=1 runs it on CPU tensors, slowly)",)
    return ()


def interprets() -> bool:
    """Whether Triton's interpreter was asked for: its kernels then take CPU tensors."""
    return settings().triton_interpret


def only_by_name(entry: str) -> str:
    """Why "auto" passes an entry's Triton kernel over; empty if it does not."""
    if interprets():
        return "Triton's interpreter runs only by name"
    return "" if entry in PROVEN else "not yet run on hardware, so only by name"


@functools.cache
def kernel(package: str, entry: str) -> TritonKernel:
    """The kernel of an entry in its op's package; only where `machine_refusals` is empty."""
    found: TritonKernel = importlib.import_module(f"{package}.cuda_triton").KERNELS[entry]
    return found


def run(package: str, entry: str, through: Callable[..., Any], *args: Any) -> Any:
    """through(launch, *args) with the first tensor's device current, as Triton's launches want it."""
    with torch.cuda.device_of(args[0]):
        return through(kernel(package, entry).launch, *args)


def refresh() -> None:
    """Forget what was decided from the environment."""
    machine_refusals.cache_clear()
