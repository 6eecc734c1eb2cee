"""Named ranges for traces: a record_function range, and an NVTX range where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.profiler import record_function

from lynx_engine import registry


@contextmanager
def named(name: str) -> Iterator[None]:
    with record_function(name), torch.cuda.nvtx.range(name) if torch.cuda.is_available() else nullcontext():
        yield


@contextmanager
def op_ranges() -> Iterator[None]:
    """Inside, every call of every op is a range named like it and its backend: "adapter_mlp [cpu_amx]"."""

    def wrap(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        return named(name)(run)

    registry.wrap_runs(wrap)
    try:
        yield
    finally:
        registry.refresh()


def name_parts(model: nn.Module, *names: str) -> None:
    """From now on these submodules of `model` are ranges of their names."""
    for name in names:
        part = model.get_submodule(name)
        part.__dict__["forward"] = named(name)(part.forward)
