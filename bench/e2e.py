"""`python -m bench.e2e`: whole parts of a model, beside what a user would run instead, under this run's ceilings."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import UseAppendAction

from bench.ceilings import Ceilings, measure_ceilings
from bench.command import run_command
from bench.parts.jobs import PARTS, Job
from bench.parts.measure import OURS, Measured, WrongResultError, measure
from bench.parts.subject import Subject, load_subject
from bench.peers_e2e import PeerModel, chosen_peers, load_peer
from bench.row import Row, write_rows
from bench.stamp import Stamp
from bench.text import digits, duration, percent
from lynx_engine import get_num_threads, set_num_threads
from lynx_engine.errors import LynxError

_COLUMNS = "{:<12} {:<21} {:<9} {:>9} {:>8} {:>17} {:>13} {:>8} {:>9}  {}"
_TITLES = ("part", "size", "dtype", "time", "p90/med", "rate", "work", "ceiling", "peak", "peers")


@dataclass
class E2E:
    """Measure whole parts of a model: time, rate, share of this run's ceiling, peak memory, and ratio to the peers."""

    preset: str = "demo"
    """demo (its shipped weights), lynx_8b, ... or a part of the depth at full widths, as lynx_8b/8 (random weights)."""
    part: UseAppendAction[tuple[str, ...]] = ()
    """Part to measure; give it several times for several. Without it all."""
    peer: str = "none"
    """What to run beside ours: none, one of the peers, or all that are installed."""
    dtype: str = "bfloat16"
    """bfloat16 or float32."""
    quantize: str | None = None
    """int8 or int4: the linears in so many bits, the rest in bfloat16, as `Lynx.load(dtype=...)` has them."""
    adapters: bool = True
    """Whether the decoder has Lynx's adapters; llama.cpp is measured against one without."""
    threads: int | None = None
    """CPU threads of ours and of the peers; without it all cores that this process may use."""
    device: str = "cpu"
    """cpu or cuda."""
    seconds: float = 3.0
    """Time for each call to be measured; a slow call gets its least number of samples however long they take."""
    json: Path | None = None
    """File to write the rows to, as bench.ops writes them."""

    def run(self) -> int:
        parts, peers = _chosen_parts(self.part), chosen_peers(self.peer)
        set_num_threads(get_num_threads() if self.threads is None else self.threads)  # ours and torch's alike
        what = (self.preset, self.dtype, self.device, parts)
        subject = load_subject(*what, adapters=self.adapters, quantize=self.quantize)
        models = dict(_loaded(peers, subject))
        ceilings = measure_ceilings(get_num_threads(), self.device)
        print(ceilings)
        print(_COLUMNS.format(*_TITLES))
        rows: list[Row] = []
        failures = 0
        for part, job in ((name, job) for name in parts for job in PARTS[name](subject)):
            try:
                measured = measure(job, models, self.seconds, self.device)
            except WrongResultError as error:
                print(f"{part} {error}")
                failures += 1
                continue
            found = make_rows(part, job, measured, subject, ceilings)
            print(_line(part, job, found[0], measured), flush=True)
            rows += found
        if self.json is not None:
            write_rows(self.json, rows)
        return 1 if failures else 0


def make_rows(part: str, job: Job, measured: Measured, subject: Subject, ceilings: Ceilings) -> list[Row]:
    """The measurement as bench.row has it: one row a peer, or one without."""
    ours = measured.timings[OURS]
    products = subject.dtype if subject.quantize is None else "int8"  # of 4-bit weights too
    bound = "compute" if job.training else ceilings.floor_us(products, job.work.flops, job.work.bytes)[1]
    tflops, gbps = job.work.flops / ours.median_us / 1e6, job.work.bytes / ours.median_us / 1e3
    ceiling = ceilings.of(products, bound)
    alone = Row(
        op=f"e2e/{part}",
        case=f"{subject.name} {job.case}",
        dtype=subject.form,
        mode="both" if job.training else "forward",
        backend=measured.backend,
        threads=get_num_threads(),
        device=subject.device,
        **dataclasses.asdict(ours),
        flops=job.work.flops,
        bytes=job.work.bytes,
        tflops=tflops,
        gbps=gbps,
        bound=bound,
        ceiling=ceiling,
        ceiling_fraction=(tflops if bound == "compute" else gbps) / ceiling,
        peer="none",
        peer_median_us=None,
        speedup=None,
        **dataclasses.asdict(Stamp.of(subject.device)),
    )
    peers = {name: timing.median_us for name, timing in measured.timings.items() if name != OURS}
    return [
        dataclasses.replace(alone, peer=name, peer_median_us=median, speedup=median / ours.median_us)
        for name, median in peers.items()
    ] or [alone]


def _line(part: str, job: Job, row: Row, measured: Measured) -> str:
    work = f"{digits(row.tflops)} TFLOP/s" if row.bound == "compute" else f"{digits(row.gbps)} GB/s"
    peak = "-" if measured.peak_bytes is None else f"{digits(measured.peak_bytes / 2**30)} GiB"
    return _COLUMNS.format(
        part,
        job.case,
        row.dtype,
        duration(row.median_us),
        f"{row.p90_us / row.median_us:.2f}",
        f"{digits(job.units / row.median_us * 1e6)} {job.unit}/s",
        work,
        percent(row.ceiling_fraction),
        peak,
        "; ".join(_peer_texts(measured)) or "-",
    )


def _peer_texts(measured: Measured) -> Iterator[str]:
    ours = measured.timings[OURS].median_us
    for name, agreement in measured.agreements.items():
        if agreement.ok:
            yield f"x {measured.timings[name].median_us / ours:.2f} {name} ({agreement.text})"
        else:
            yield f"{name} computes something else: {agreement.text}; not timed"


def _chosen_parts(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in PARTS:
            raise LynxError(f"unknown part {name!r}; parts: {', '.join(PARTS)}")
    return names or tuple(PARTS)


def _loaded(names: tuple[str, ...], subject: Subject) -> Iterator[tuple[str, PeerModel]]:
    """The peers that can run here; of the others it is said why not, and the run goes on."""
    for name in names:
        try:
            yield name, load_peer(name, subject)
        except LynxError as refusal:
            print(refusal)


if __name__ == "__main__":
    sys.exit(run_command(E2E, "e2e"))
