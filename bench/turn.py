"""One process of `bench.ops --base`: reads jobs on standard input, prints the median of each, in microseconds."""

from __future__ import annotations

import json
import sys

from bench.jobs import Choice, Job
from bench.measure import Timing
from bench.run import OURS, measure
from lynx_engine import set_num_threads
from lynx_engine.errors import LynxError


def main() -> None:
    request = json.load(sys.stdin)
    set_num_threads(request["threads"])
    medians = {}
    for op, case, backend, dtype, mode, device in request["jobs"]:
        job = _find(op, case, backend, dtype, mode, device)
        if job is None:
            continue  # this revision has no such case
        measured = measure(job, {}, seconds=request["seconds"], check=request["check"])
        if measured.faults:
            raise LynxError(f"wrong, so not timed: {job}: {measured.faults[0]}")
        medians[str(job)] = Timing.of(measured.samples[OURS]).median_us
    json.dump(medians, sys.stdout)


def _find(op: str, case: str, backend: str, dtype: str, mode: str, device: str) -> Job | None:
    try:
        jobs = Choice(op, case, backend, dtype, mode, device).jobs()
    except LynxError:
        return None
    return next((job for job in jobs if job.case.name == case), None)


if __name__ == "__main__":
    main()
