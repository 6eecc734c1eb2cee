"""The gate on speed: each op's ratio to its rival, against what this model of processor reached when it was recorded.

    python -m pytest bench/test_regression.py --benchmark-json=bench.json

One thread. A ratio below its bound is measured again, twice: only what is slow three times in a row is an alarm.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bench.expected import expected, model, ratio, watched
from bench.jobs import Job
from lynx_engine import get_num_threads, set_num_threads
from lynx_engine.yardstick import draw

pytest.importorskip("pytest_benchmark", reason="pip install 'lynx-engine[bench]'")

EXPECTED = expected()
SECONDS = 0.2
ATTEMPTS = 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = get_num_threads()
    set_num_threads(1)
    yield
    set_num_threads(before)


@pytest.mark.parametrize("job", watched(), ids=str)
def test_no_slower_than_recorded(job: Job, benchmark: Any) -> None:
    if not EXPECTED:
        pytest.skip(f"no ratios recorded on {model()}: python -m bench.expected")
    assert str(job) in EXPECTED, f"{job} has no recorded ratio: python -m bench.expected"
    recorded, tolerance = EXPECTED[str(job)]
    found = []
    for attempt in range(ATTEMPTS):
        reached, backend = ratio(job, seconds=SECONDS, check=attempt == 0)
        found.append(reached)
        if reached >= recorded * (1 - tolerance):
            break
    benchmark.extra_info.update(ratio=max(found), recorded=recorded, rival=job.suite.rival, backend=backend)
    arguments = draw(job.case, job.dtype, 0)
    benchmark.pedantic(job.suite.function, kwargs=arguments, rounds=20, warmup_rounds=2)
    assert max(found) >= recorded * (1 - tolerance), (
        f"{job}: x {max(found):.2f} {job.suite.rival}, recorded x {recorded:.2f} less {100 * tolerance:.0f} %"
    )
