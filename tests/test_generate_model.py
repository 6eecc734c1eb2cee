"""Generation by the recorded models T1-T4 from pixels and ids: identical answers, batched and alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from generate_tables import Replay
from reference_cases import Case, case
from torch import Tensor

from lynx_engine.generate import DecoderSession, GenerationConfig, GenerationOutput, search
from lynx_engine.model import LynxModel
from lynx_engine.weights import load_release

CASES = ("T1", "T2", "T3", "T4")


@cache
def load(folder: Path) -> LynxModel:
    recorded = case(folder)
    if (folder / "data").is_dir():
        files = folder / "data"
        release = load_release(
            files / "eva_vit_g.pth",
            files / "vicuna-7b",
            files / "finetune_lynx.pt",
            config=folder / "lynx_config.json",
            overrides=[f"vit_num_heads={recorded.manifest['config']['vit']['num_heads']}"],
            release_compat=True,
        )
        model, weights = LynxModel(release.config), dict(release.tensors())
    else:
        model, weights = LynxModel(recorded.config), recorded.weights()
    model.load_state_dict({k: v for k, v in weights.items() if not k.endswith("inv_freq")})
    return model.eval().requires_grad_(False)


class Prompt:
    """The recorded input `name` of a case: what stands before the answer of each row."""

    def __init__(self, recorded: Case, name: str) -> None:
        self.model = load(recorded.folder)
        tensors = recorded.tensors("act_" + {"batch3_rightpad": "rightpad"}.get(name, name))
        pixels = None if name == "text" else (recorded.tensors("act_batch3") if "right" in name else tensors)["vision"]
        with torch.no_grad():
            vision = None
            if pixels is not None:
                encode = self.model.encode_videos if pixels.dim() == 5 else self.model.encode_images
                vision = encode(pixels.float())
            self.embeds = self.model.embed(tensors["input_ids"], vision)
        mask = tensors["input_atts"]
        self.mask = torch.cat((mask.new_ones(len(mask), self.embeds.shape[1] - mask.shape[1]), mask), dim=1)

    def session(self) -> DecoderSession:
        return DecoderSession(self.model, self.embeds, self.mask)

    def session_alone(self, row: int) -> DecoderSession:
        """One row without its padding."""
        kept = self.mask[row].bool()
        return DecoderSession(self.model, self.embeds[row : row + 1, kept])


def run(session: DecoderSession, recorded: dict[str, Any], **changes: Any) -> GenerationOutput:
    ids = {key: recorded[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    hooks = {key: changes.pop(key) for key in ("draw", "on_scores") if key in changes}
    return search(session, GenerationConfig(**recorded["args"]).replace(**changes), **ids, **hooks)


def assert_equal(output: GenerationOutput, recorded: dict[str, Any]) -> None:
    where = (recorded["input"], recorded["name"])
    assert output.sequences.tolist() == recorded["sequences"], where
    if "sequences_scores" in recorded:
        wanted = torch.tensor(recorded["sequences_scores"])
        torch.testing.assert_close(output.sequences_scores, wanted, rtol=1e-5, atol=0)
        assert output.beam_indices is not None
        got, wanted = output.beam_indices, torch.tensor(recorded["beam_indices"])
        if recorded["args"]["do_sample"]:
            # beams drawn alike are told apart by rounding alone, so only the row of a beam has a meaning
            width = recorded["args"]["num_beams"]
            got, wanted = (torch.where(indices < 0, -1, indices // width) for indices in (got, wanted))
        assert torch.equal(got, wanted), where


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These models are too small to share out: with more threads the tests take longer."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(params=CASES)
def recorded_case(request: pytest.FixtureRequest, fixtures_dir: Path) -> Case:
    return case(fixtures_dir / request.param)


@pytest.mark.parametrize("release_compat", [False, True])
def test_every_recorded_run(recorded_case: Case, release_compat: bool) -> None:
    for recorded in recorded_case.json("generation"):
        draw = Replay(recorded["draws"]) if "draws" in recorded else None
        session = Prompt(recorded_case, recorded["input"]).session()
        assert_equal(run(session, recorded, draw=draw, release_compat=release_compat), recorded)


def test_rows_alone_and_without_padding(recorded_case: Case) -> None:
    for recorded in recorded_case.json("generation"):
        if "sequences_run_alone" not in recorded:
            continue
        prompt = Prompt(recorded_case, recorded["input"])
        for row, alone in enumerate(recorded["sequences_run_alone"]):
            output = run(prompt.session_alone(row), recorded)
            assert output.sequences.tolist() == (alone if isinstance(alone[0], list) else [alone])


def scores_by_step(recorded: dict[str, Any], prompt: Prompt) -> list[tuple[list[int], Tensor]]:
    seen: list[tuple[list[int], Tensor]] = []
    run(prompt.session(), recorded, on_scores=lambda scores, rows: seen.append((rows, scores)))
    return seen


def test_processed_scores(recorded_case: Case) -> None:
    wanted = recorded_case.tensors("gen_scores")
    for recorded in recorded_case.json("generation"):
        key = f"{recorded['input']}.{recorded['name']}.scores"
        steps = wanted.get(key, wanted.get(key + "2"))
        if steps is None:
            continue
        seen = scores_by_step(recorded, Prompt(recorded_case, recorded["input"]))
        for step, (rows, scores) in zip(steps, seen, strict=False):
            torch.testing.assert_close(scores, step[rows], rtol=0, atol=5e-4)


def test_probabilities_of_sampled_runs(recorded_case: Case) -> None:
    wanted = recorded_case.tensors("gen_scores")
    for recorded in recorded_case.json("generation"):
        if "draws" not in recorded:
            continue
        draw = Replay(recorded["draws"])
        run(Prompt(recorded_case, recorded["input"]).session(), recorded, draw=draw)
        for step, probs in enumerate(wanted[f"{recorded['input']}.{recorded['name']}.probs"]):
            rows, given = draw.given[step]
            torch.testing.assert_close(given, probs[rows], rtol=0, atol=2e-4)
