"""Frame sampling against the authors' recorded choices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lynx_engine.errors import LynxError
from lynx_engine.media import sample_frame_ids


@pytest.mark.parametrize(
    ("count", "wanted", "ids"),
    [
        (1, 5, [0, 0, 0, 0, 0]), (3, 5, [0, 0, 1, 1, 2]), (5, 5, [0, 1, 2, 3, 4]), (4, 8, [0, 0, 1, 1, 2, 2, 3, 3]),
        (5, 8, [0, 0, 1, 1, 2, 2, 3, 4]), (5, 2, [0, 3]), (4, 3, [0, 2, 3]), (7, 1, [0]),
    ],
)  # fmt: skip
def test_evaluation_takes_the_left_edges(count: int, wanted: int, ids: list[int]) -> None:
    assert sample_frame_ids(count, wanted) == ids


@pytest.mark.parametrize(
    ("seed", "count", "wanted", "ids"),
    [
        (0, 3, 5, [0, 0, 1, 1, 2]), (42, 3, 5, [0, 0, 1, 2, 2]), (0, 17, 5, [1, 6, 8, 13, 14]),
        (42, 100, 5, [7, 26, 58, 70, 90]), (42, 8, 3, [0, 5, 6]), (42, 40, 1, [38]),
    ],
)  # fmt: skip
def test_training_draws_like_the_authors(seed: int, count: int, wanted: int, ids: list[int]) -> None:
    np.random.seed(seed)
    assert sample_frame_ids(count, wanted, training=True) == ids
    assert sample_frame_ids(count, wanted, training=True, rng=np.random.RandomState(seed)) == ids


def test_recorded_choices(fixtures_dir: Path) -> None:
    folder = fixtures_dir / "frames"
    for case in json.loads((folder / "eval.json").read_text()):
        assert sample_frame_ids(case["n"], case["k"]) == case["ids"]
    for case in json.loads((folder / "training_true.json").read_text()):
        np.random.seed(case["np_seed"])
        assert sample_frame_ids(case["n"], case["k"], training=True) == case["ids"]


@pytest.mark.parametrize(("count", "wanted"), [(0, 5), (5, 0), (-1, 5)])
def test_numbers_that_make_no_sense(count: int, wanted: int) -> None:
    with pytest.raises(LynxError, match="both numbers must be positive"):
        sample_frame_ids(count, wanted)
