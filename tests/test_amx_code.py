"""The machine code that the compiler made for AMX equals its emulated build to the last bit, on every op.

Where the processor has no AMX, its instructions trap and are emulated one by one (tests/amx_trap.cpp); where it has,
this holds the emulation against the silicon.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cpu_vocabulary import NEEDS, ROOT, compile_for, processor_flags
from torch import Tensor

from lynx_engine import native, ops, registry
from lynx_engine.cases import Case, Suite
from lynx_engine.yardstick import named_outputs

EMULATED = [
    pytest.param(suite, case, id=f"{suite.op}-{case.name}")
    for suite in ops.suites()
    for case in suite.cases
    if not case.bench and 0 < case.flops < 2e6 and (ROOT / "kernels" / ops.folder_of(suite.op) / "cpu_amx.cpp").exists()
]


@pytest.fixture(scope="module")
def trap() -> Iterator[Callable[[], int]]:
    """Makes AMX instructions run in this process; gives the number of those that were trapped."""
    missing = NEEDS["amx_emulated"] - processor_flags()
    compiled = native.module()
    if missing or compiled is None:
        pytest.skip(f"this processor has no {', '.join(sorted(missing))}" if missing else "lynx_engine._C is not built")
    if compiled.cpu_features()["amx"]:
        yield lambda: 1
        return
    library = ctypes.CDLL(
        str(compile_for("amx_emulated", ROOT / "tests" / "amx_trap.cpp", "trap.so", "-O2", "-shared"))
    )
    library.trapped_instructions.restype = ctypes.c_int64
    library.install()
    yield library.trapped_instructions
    library.uninstall()


def run_on(source: str, suite: Suite, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Output and gradients with `cpu_amx` meaning `source`: "amx", the hardware's code, or "amx_emulated"."""
    with monkeypatch.context() as patch:
        patch.setattr(native, "isa_refusals", lambda isa: ())
        patch.setattr(native, "emulates_amx", lambda: source == "amx_emulated")
        for op in registry.ops().values():
            op.__dict__.pop("backends", None)
        leaves = [arguments[name].detach().requires_grad_() for name in suite.differentiable]
        inputs = {**arguments, **dict(zip(suite.differentiable, leaves, strict=True))}
        outputs = list(named_outputs(suite.function(**inputs, backend="cpu_amx")).values())
        gradients = torch.autograd.grad(outputs, leaves, list(map(torch.ones_like, outputs))) if leaves else ()
    registry.refresh()
    return [*(output.detach() for output in outputs), *gradients]


@pytest.mark.parametrize(("suite", "case"), EMULATED)
def test_code_for_amx_equals_its_emulation(
    suite: Suite, case: Case, trap: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "amx" not in native.module().backends.get(suite.op, {}):
        pytest.skip(f"{suite.op} has no AMX backend")
    arguments = case.make(torch.Generator().manual_seed(11), torch.bfloat16)
    emulated = run_on("amx_emulated", suite, arguments, monkeypatch)
    before = trap()
    hardware = run_on("amx", suite, arguments, monkeypatch)
    assert trap() > before or native.module().cpu_features()["amx"], "no AMX instruction ran"
    for one, other in zip(hardware, emulated, strict=True):
        assert torch.equal(one, other)
