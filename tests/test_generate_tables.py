"""Searches over table language models against recorded runs of the authors' stack: ids, scores and draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from generate_tables import Replay, Tables

from lynx_engine.generate import GenerationConfig, GenerationOutput, search

IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@pytest.fixture(scope="module", params=["tests/data", "beam_tables", "beam_batch_dependence"])
def tables(request: pytest.FixtureRequest) -> Tables:
    if request.param == "tests/data":
        return Tables.from_json(Path(__file__).parent / "data" / "generation.json")
    return Tables.from_fixture(request.getfixturevalue("fixtures_dir") / request.param)


def config_of(run: dict[str, Any], release_compat: bool = False) -> GenerationConfig:
    return GenerationConfig(**run["args"], release_compat=release_compat)


def depends_on_batch(run: dict[str, Any]) -> bool:
    return bool(run.get("batch_dependent") or run.get("rows_that_differ"))


def assert_equal(output: GenerationOutput, run: dict[str, Any]) -> None:
    assert output.sequences.tolist() == run["sequences"], run["args"]
    if "sequences_scores" in run:
        torch.testing.assert_close(output.sequences_scores, torch.tensor(run["sequences_scores"]), rtol=1e-5, atol=0)
    if "beam_indices" in run:
        assert output.beam_indices is not None
        assert output.beam_indices.tolist() == run["beam_indices"], run["args"]


@pytest.mark.parametrize("release_compat", [False, True])
def test_every_recorded_run(tables: Tables, release_compat: bool) -> None:
    for run in tables.runs:
        draw = Replay(run["draws"]) if "draws" in run else None
        output = search(tables.session(run), config_of(run, release_compat), draw=draw, **IDS)
        if release_compat or not depends_on_batch(run):
            assert_equal(output, run)
        else:
            assert output.sequences.tolist() != run["sequences"]


def test_default_rows_equal_their_run_alone(tables: Tables) -> None:
    for run in tables.runs:
        if "draws" in run:
            continue
        together = search(tables.session(run), config_of(run), **IDS).answers
        copies = run["args"].get("num_return_sequences", 1)
        for row in range(len(together) // copies):
            alone = search(tables.session(run, slice(row, row + 1)), config_of(run), **IDS)
            wanted = [answer.token_ids for answer in together[row * copies : (row + 1) * copies]]
            assert [answer.token_ids for answer in alone.answers] == wanted, run["args"]
            if "rows_alone" in run:
                recorded = run["rows_alone"][row]
                recorded = recorded if isinstance(recorded[0], list) else [recorded]
                assert alone.sequences.tolist() == recorded, run["args"]


def test_batch_dependence_fixed_for_every_row(tables: Tables) -> None:
    for run in tables.runs:
        if "sequences_with_cur_len_fixed" in run:
            output = search(tables.session(run), config_of(run), **IDS)
            assert output.sequences.tolist() == run["sequences_with_cur_len_fixed"]


def test_probabilities_given_to_the_draws(tables: Tables) -> None:
    for run in tables.runs:
        if "probs_key" not in run:
            continue
        draw = Replay(run["draws"])
        search(tables.session(run), config_of(run, release_compat=True), draw=draw, **IDS)
        for step in range(3):
            wanted = tables.tensors[f"{run['probs_key']}.probs{step}"]
            rows, probs = draw.given[step]
            torch.testing.assert_close(probs, wanted[rows], rtol=1e-5, atol=1e-7)


def test_finished_rows_leave_the_batch(tables: Tables) -> None:
    for run in tables.runs:
        if "draws" in run:
            continue
        session = tables.session(run)
        answers = search(session, config_of(run), **IDS).answers
        assert session.steps == sorted(session.steps, reverse=True)
        if run["args"]["num_beams"] == 1:
            chosen = [len(answer.token_ids) + (answer.finish_reason == "eos") for answer in answers]
            assert sum(session.steps) == sum(chosen) - len(chosen)
