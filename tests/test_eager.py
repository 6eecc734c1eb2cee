"""A call skips torch's dispatcher only where nobody can tell; whoever watches or transforms calls still sees ops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from lynx_engine import ops
from lynx_engine.eager import eager, needs_no_dispatcher

WEIGHT = torch.ones(8)


def normed(x: Tensor) -> Tensor:
    return ops.rms_norm(x, WEIGHT)


class Marked(torch.Tensor):
    pass


def test_plain_calls_skip_the_dispatcher() -> None:
    assert needs_no_dispatcher((torch.ones(2), None, torch.nn.Parameter(torch.ones(2)), 1e-6, True, "auto"))


def test_other_tensors_do_not() -> None:
    assert not needs_no_dispatcher((torch.ones(2, device="meta"),))
    assert not needs_no_dispatcher((torch.ones(2).as_subclass(Marked),))
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(torch.ones(2))
    assert not needs_no_dispatcher((torch.ones(2), fake))


def test_dispatch_modes_see_the_op() -> None:
    names = []

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(func.name())
            return func(*args, **(kwargs or {}))

    with Names():
        normed(torch.ones(3, 8))
    assert "lynx::rms_norm" in names


def test_the_profiler_sees_the_op() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        normed(torch.ones(3, 8))
    assert any(event.key == "lynx::rms_norm" for event in profile.key_averages())


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_traces_hold_the_op() -> None:
    traced = torch.jit.trace(normed, torch.ones(3, 8))
    assert "lynx::rms_norm" in str(traced.graph)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_meets_the_dispatcher() -> None:
    """Its tensors look plain and are not: torch runs an op without a batching rule row by row."""
    x = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.vmap(normed)(x), normed(x))


def test_forward_mode_meets_the_dispatcher() -> None:
    with forward_ad.dual_level():
        assert not needs_no_dispatcher((torch.ones(2),))


def test_writes_are_counted_outside_of_inference_mode() -> None:
    called = []
    call = eager(lambda x: called.append("op"), lambda x: called.append("implementation"), mutates=True)
    call(torch.ones(2))
    with torch.inference_mode():
        call(torch.ones(2))
    assert called == ["op", "implementation"]
