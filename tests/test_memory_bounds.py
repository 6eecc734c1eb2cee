"""No kernel touches memory beside its inputs: each input ends at a page that must not be read."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lynx_engine import native, ops, registry
from lynx_engine.cases import Suite
from lynx_engine.yardstick import named_outputs

PAGE = mmap.PAGESIZE
NO_ACCESS, READ_WRITE = 0, mmap.PROT_READ | mmap.PROT_WRITE
SUITES = ops.suites()


def fenced(tensor: Tensor) -> Tensor:
    """A copy whose last byte is the last of its page; the pages before and after fault when touched. Never freed."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    size = tensor.numel() * tensor.element_size()
    pages = -(-size // PAGE) + 2
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    length = ctypes.c_size_t(pages * PAGE)
    start = libc.mmap(None, length, NO_ACCESS, flags, -1, ctypes.c_long(0))
    inside = ctypes.c_size_t((pages - 2) * PAGE)
    if size == 0 or libc.mprotect(ctypes.c_void_p(start + PAGE), inside, READ_WRITE) != 0:
        return tensor
    memory = (ctypes.c_char * size).from_address(start + (pages - 1) * PAGE - size)
    return torch.frombuffer(memory, dtype=tensor.dtype).view(tensor.shape).copy_(tensor)


def call(suite: Suite, backend: str, arguments: dict[str, Any]) -> None:
    """Forward and backward with every input fenced."""
    inputs = {name: fenced(x.contiguous()) if isinstance(x, Tensor) else x for name, x in arguments.items()}
    leaves = [inputs[name].requires_grad_() for name in suite.differentiable]
    outputs = list(named_outputs(suite.function(**inputs, backend=backend)).values())
    if leaves:
        dy = [fenced(torch.ones_like(output)) for output in outputs]
        torch.autograd.grad(outputs, leaves, dy, allow_unused=True)


def run_all(index: int) -> None:
    """Every compiled backend, dtype and small case of one suite; dies by SIGSEGV at the first wrong read."""
    suite = SUITES[index]
    backends = [b for b in registry.ops()[suite.op].backends if b.kernel is not None and not b.machine_refusals()]
    for backend in backends:
        for dtype in native.kernels(suite.op)[backend.name][1] & set(suite.dtypes):
            for case in suite.cases:
                if not case.bench and case.flops < 3e6:
                    sys.stdout.write(f"{backend.name} {case.name} {dtype}\n")
                    sys.stdout.flush()
                    call(suite, backend.name, case.make(torch.Generator().manual_seed(0), dtype))


@pytest.mark.parametrize("index", range(len(SUITES)), ids=[f"{i}-{suite.op}" for i, suite in enumerate(SUITES)])
def test_inputs_are_read_within_their_bounds(index: int) -> None:
    program = f"import test_memory_bounds; test_memory_bounds.run_all({index})"
    here = Path(__file__).resolve().parent
    environment = {**os.environ, "LYNX_EMULATE_AMX": "1", "PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=here, env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, f"died after: {process.stdout.splitlines()[-1:]}\n{process.stderr[-2000:]}"
    assert process.stdout or native.module() is None, "no kernel ran"
