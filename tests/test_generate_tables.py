"""Searches over table language models against recorded runs of the authors' stack: ids, scores and draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from generate_tables import Replay, TableSession
from safetensors.torch import load_file
from torch import Tensor

from lynx_engine.generate import GenerationConfig, GenerationOutput, search

IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


class Tables:
    """The runs of one fixture folder and the tables they were recorded over."""

    def __init__(self, folder: Path) -> None:
        self.tensors = load_file(folder / "tables.safetensors")
        self.runs = json.loads((folder / "runs.json").read_text())

    def session(self, run: dict[str, Any], rows: slice = slice(None)) -> TableSession:
        seed = run["seed"]
        return TableSession(self.tensors[f"seed{seed}.first"][rows], self.tensors[f"seed{seed}.table"][rows])


@pytest.fixture(scope="module")
def tables(fixtures_dir: Path) -> Tables:
    return Tables(fixtures_dir / "beam_tables")


@pytest.fixture(scope="module")
def dependent(fixtures_dir: Path) -> Tables:
    return Tables(fixtures_dir / "beam_batch_dependence")


def config_of(run: dict[str, Any], release_compat: bool = False) -> GenerationConfig:
    return GenerationConfig(**run["args"], release_compat=release_compat)


def assert_equal(output: GenerationOutput, run: dict[str, Any]) -> None:
    assert output.sequences.tolist() == run["sequences"], run["args"]
    if "sequences_scores" in run:
        torch.testing.assert_close(output.sequences_scores, torch.tensor(run["sequences_scores"]), rtol=1e-5, atol=0)
    if "beam_indices" in run:
        assert output.beam_indices is not None and output.beam_indices.tolist() == run["beam_indices"], run["args"]


@pytest.mark.parametrize("release_compat", [False, True])
def test_every_recorded_run(tables: Tables, release_compat: bool) -> None:
    assert len(tables.runs) == 78
    for run in tables.runs:
        draw = Replay(run["draws"]) if "draws" in run else None
        output = search(tables.session(run), config_of(run, release_compat), draw=draw, **IDS)
        assert_equal(output, run)


def test_rows_alone(tables: Tables) -> None:
    for run in tables.runs:
        for row, alone in enumerate(run.get("rows_alone", [])):
            output = search(tables.session(run, slice(row, row + 1)), config_of(run), **IDS)
            assert output.sequences.tolist() == alone, run["args"]


def test_probabilities_given_to_the_draws(tables: Tables) -> None:
    sampled = [run for run in tables.runs if "probs_key" in run]
    assert sampled
    for run in sampled:
        draw = Replay(run["draws"])
        search(tables.session(run), config_of(run, release_compat=True), draw=draw, **IDS)
        for step in range(3):
            wanted: Tensor = tables.tensors[f"{run['probs_key']}.probs{step}"]
            torch.testing.assert_close(draw.probs[step], wanted, rtol=1e-5, atol=1e-7)


def test_batch_dependent_stopping_is_opt_in(dependent: Tables) -> None:
    for run in dependent.runs:
        as_released = search(dependent.session(run), config_of(run, release_compat=True), **IDS)
        assert_equal(as_released, run)
        by_default = search(dependent.session(run), config_of(run), **IDS)
        assert by_default.sequences.tolist() == run["sequences_with_cur_len_fixed"]
        for row, alone in enumerate(run["rows_alone"]):
            for release_compat in (False, True):
                output = search(dependent.session(run, slice(row, row + 1)), config_of(run, release_compat), **IDS)
                assert output.sequences[0].tolist() == alone


def test_finished_rows_leave_the_batch(tables: Tables) -> None:
    for run in tables.runs:
        if run["args"].get("do_sample"):
            continue
        session = tables.session(run)
        output = search(session, config_of(run), **IDS)
        assert session.steps == sorted(session.steps, reverse=True)
        if run["args"]["num_beams"] == 1:
            chosen = [len(answer.token_ids) + (answer.finish_reason == "eos") for answer in output.answers]
            assert sum(session.steps) == sum(chosen) - len(chosen)
