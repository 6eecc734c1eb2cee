"""One job from its inputs to its rows: first right, then fast."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.ceilings import Ceilings
from bench.jobs import Job
from bench.measure import Call, Timing, bytes_of, copied, copies_past_caches, in_turn, interleaved
from bench.peers import Prepare
from bench.row import Row
from bench.stamp import Stamp
from lynx_engine import registry
from lynx_engine.yardstick import (
    Arguments,
    Output,
    draw,
    forward_only,
    named_outputs,
    output_and_gradients,
    poisoned_memory,
    yardstick,
)

_WIDE_BYTES = 3 << 30
_FORWARD_ONLY = frozenset({"onednn"})  # torch's packed linears have no gradients
OURS = ""
_OUR_MARGIN = 2.0  # the tests'
_PEER_MARGIN = 8.0  # of one draw, so that a peer is not refused for what is a matter of rounding


@dataclass(frozen=True)
class Measured:
    """Samples in seconds by peer's name, ours under OURS; none where our result is wrong.

    faults: what is wrong with ours, or with the peers that were therefore left out. backend: what ran.
    """

    samples: dict[str, list[float]]
    faults: list[str]
    backend: str


def measure(job: Job, peers: Mapping[str, Prepare], *, seconds: float, check: bool = True) -> Measured:
    """Check ours and every peer against the float64 reference, then time them in turn. A wrong peer is left out.

    check: False where another process has just checked the same code.
    """
    arguments = _on(job.device, draw(job.case, job.dtype, 0))
    prepare: dict[str, Prepare] = {OURS: partial(_ours, job)}
    prepare |= {name: peer for name, peer in peers.items() if job.mode == "forward" or name not in _FORWARD_ONLY}
    margins = {name: _OUR_MARGIN if name == OURS else _PEER_MARGIN for name in prepare}
    faults = {name: _faults(job, prepare[name], arguments, margin) if check else [] for name, margin in margins.items()}
    if not check:
        _call(job, prepare[OURS], [arguments])(0)
    used = _used(job)
    notes = [f"{name}: {fault}" for name, found in faults.items() if name != OURS for fault in found[:1]]
    if faults[OURS]:
        return Measured({}, faults[OURS], used)
    growth = 1 if job.mode == "forward" else 4  # a recorded graph keeps more than its inputs
    copies = [copied(arguments) for _ in range(copies_past_caches(growth * bytes_of(arguments), job.device) - 1)]
    calls = {name: _call(job, peer, [arguments, *copies]) for name, peer in prepare.items() if not faults[name]}
    return Measured(interleaved(calls, seconds=seconds, device=job.device), notes, used)


def rows(job: Job, measured: Measured, ceilings: Ceilings, stamp: Stamp) -> list[Row]:
    """One row a peer, or one without; none where our result was wrong."""
    if not measured.samples:
        return []
    ours = Timing.of(measured.samples[OURS])
    flops, bytes_ = job.case.work(job.dtype, job.mode)
    floor_us, bound = ceilings.floor_us(job.dtype_name, flops, bytes_)
    peers = {name: Timing.of(taken) for name, taken in measured.samples.items() if name != OURS}
    found = []
    for peer, timing in peers.items() or [("none", None)]:
        found.append(
            Row(
                op=job.suite.op,
                case=job.case.name,
                dtype=job.dtype_name,
                mode=job.mode,
                backend=measured.backend,
                threads=ceilings.threads,
                device=job.device,
                median_us=ours.median_us,
                p10_us=ours.p10_us,
                p90_us=ours.p90_us,
                runs=ours.runs,
                flops=flops,
                bytes=bytes_,
                tflops=flops / ours.median_us / 1e6,
                gbps=bytes_ / ours.median_us / 1e3,
                bound=bound,
                ceiling=ceilings.of(job.dtype_name, bound),
                ceiling_fraction=floor_us / ours.median_us,
                peer=peer,
                peer_median_us=None if timing is None else timing.median_us,
                speedup=None if timing is None else timing.median_us / ours.median_us,
                machine=stamp.machine,
                commit=stamp.commit,
                time=stamp.time,
            )
        )
    return found


def _ours(job: Job, arguments: Arguments) -> Callable[[], Output]:
    return partial(job.suite.function, **arguments, backend=job.backend)


def _used(job: Job) -> str:
    """The backend that "auto" has just taken."""
    suffix = "_backward" if job.mode == "backward" else ""
    return registry.ops()[job.suite.op + suffix].last_used or job.backend


def _on(device: str, arguments: Arguments) -> Arguments:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in arguments.items()}


def _faults(job: Job, prepare: Prepare, arguments: Arguments, margin: float) -> list[str]:
    """What is wrong with one call's output, and gradients where they are measured, on memory full of NaN."""
    gradients = job.mode != "forward"
    wide = torch.float32 if bytes_of(arguments) * 8 // job.dtype.itemsize > _WIDE_BYTES else torch.float64
    truth = yardstick(job.suite, job.case, job.dtype, (0,), gradients=gradients, wide=wide)

    def function(**given: Any) -> Tensor:
        return prepare(given)()

    with poisoned_memory():
        found = (
            output_and_gradients(function, arguments, job.suite.differentiable)
            if gradients
            else forward_only(function, arguments)
        )
    return truth.faults({name: tensor[None].cpu() for name, tensor in found.items()}, margin)


def _call(job: Job, prepare: Prepare, copies: Iterable[Arguments]) -> Call:
    make = {"forward": _forward, "backward": _backward, "both": _both}[job.mode]
    return in_turn([make(job, prepare, arguments) for arguments in copies])


def _forward(job: Job, prepare: Prepare, arguments: Arguments) -> Callable[[], Any]:
    call = prepare(arguments)

    def run() -> Tensor:
        with torch.no_grad():
            return call()

    return run


def _leaves(job: Job, arguments: Arguments) -> Arguments:
    trained = {name: arguments[name].detach().requires_grad_() for name in job.suite.differentiable}
    return {**arguments, **trained}


def _backward(job: Job, prepare: Prepare, arguments: Arguments) -> Callable[[], Any]:
    """The gradients alone, of a graph recorded beforehand."""
    given = _leaves(job, arguments)
    outputs = list(named_outputs(prepare(given)()).values())
    dy = [torch.randn_like(output) for output in outputs]
    inputs = [given[name] for name in job.suite.differentiable]
    return lambda: torch.autograd.grad(outputs, inputs, dy, retain_graph=True, allow_unused=True)


def _both(job: Job, prepare: Prepare, arguments: Arguments) -> Callable[[], Any]:
    """Output and gradients, as a training step takes them."""
    given = _leaves(job, arguments)
    call = prepare(given)
    dy = [torch.randn_like(output) for output in named_outputs(call()).values()]
    inputs = [given[name] for name in job.suite.differentiable]
    return lambda: torch.autograd.grad(list(named_outputs(call()).values()), inputs, dy, allow_unused=True)
