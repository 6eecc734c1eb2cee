"""One job of bench.e2e: checked, compared with the peers, timed in turn with them, and turned into a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.measure import Call, Timing, interleaved
from bench.parts.jobs import Job
from bench.parts.memory import with_peak
from bench.peers_e2e import PeerModel, Run
from lynx_engine import registry
from lynx_engine.errors import LynxError

OURS = "ours"


class WrongResultError(LynxError):
    """Ours is not finite: there is nothing to time."""


@dataclass(frozen=True)
class Agreement:
    """A peer's result beside ours. Logits: cosine and largest difference; ids: how many lead alike, of how many."""

    ok: bool
    text: str

    @classmethod
    def of(cls, ours: Tensor, theirs: Tensor, min_cosine: float) -> Agreement:
        if ours.shape != theirs.shape:
            return cls(False, f"shape {list(theirs.shape)}, ours {list(ours.shape)}")
        if not ours.is_floating_point():
            same = (ours == theirs.to(ours.device)).flatten().long().cumprod(0)
            return cls(True, f"{int(same.sum())} of {same.numel()} leading tokens alike")
        a, b = (x.detach().double().flatten().cpu() for x in (ours, theirs))
        cosine, error = float(F.cosine_similarity(a, b, dim=0)), float((a - b).abs().max())
        text = f"cosine {cosine:.6f}, largest difference {error:.2g} of {float(a.abs().max()):.2g}"
        return cls(cosine >= min_cosine, text)


@dataclass(frozen=True)
class Measured:
    """Timings by name ("ours" and the peers that agree), agreement by peer, the backends that "auto" chose."""

    timings: Mapping[str, Timing]
    agreements: Mapping[str, Agreement]
    backend: str
    peak_bytes: int | None


def measure(job: Job, peers: Mapping[str, PeerModel], seconds: float, device: str) -> Measured:
    """Run ours once and look at the result, then every peer, then all in turn for `seconds` each."""
    for op in registry.ops().values():
        op.last_used = None
    result, peak = with_peak(job.run, device)
    backend = "+".join(sorted({op.last_used for op in registry.ops().values() if op.last_used})) or "auto"
    if not bool(torch.isfinite(result.float()).all()):
        raise WrongResultError(f"{job.case}: the result is not finite; no time is reported")
    runs, agreements = {OURS: job.run}, {}
    for name, peer in peers.items():
        twin = job.twin(peer)
        if twin is not None:
            agreements[name] = Agreement.of(result, twin(), peer.min_cosine)
            if agreements[name].ok:
                runs[name] = twin
    samples = interleaved(
        {name: _numbered(run) for name, run in runs.items()}, seconds=seconds, min_runs=job.min_runs, device=device
    )
    return Measured({name: Timing.of(s) for name, s in samples.items()}, agreements, backend, peak)


def _numbered(run: Run) -> Call:
    return lambda number: run()
