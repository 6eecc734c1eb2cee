"""DecoderSession: cached steps against one uncached forward over the whole text, row by row."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from small import SMALL, small_model
from torch import Tensor

from lynx_engine import LynxError
from lynx_engine.generate import DecoderSession, GenerationConfig, search
from lynx_engine.model import LynxModel

IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 49}
NUM_VISION = 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module", params=["causal", "bidirectional"])
def model(request: pytest.FixtureRequest) -> LynxModel:
    return small_model(dataclasses.replace(SMALL, prefix_attention=request.param)).requires_grad_(False)


def prompts(model: LynxModel, lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Embeddings [B, 3 + longest, H] of vision tokens, left pads and text, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids = torch.randint(3, 49, (len(lengths), longest), generator=generator)
    mask = torch.ones(len(lengths), NUM_VISION + longest, dtype=torch.int64)
    for row, length in enumerate(lengths):
        ids[row, : longest - length] = IDS["pad_token_id"]
        mask[row, NUM_VISION : NUM_VISION + longest - length] = 0
    vision = torch.randn(len(lengths), NUM_VISION, SMALL.llm.hidden_size, generator=generator)
    return model.embed(ids, vision), mask


def uncached(model: LynxModel, embeds: Tensor, mask: Tensor, answer: list[int]) -> Tensor:
    """Logits [V] after one row's prompt without its pads and `answer`, by a single forward."""
    row = torch.cat((embeds[mask.bool()][None], model.embed(torch.tensor([answer], dtype=torch.int64))), dim=1)
    return model.logits(model.decode(row, num_vision_tokens=NUM_VISION)[:, -1])[0]


def test_steps_equal_one_forward_without_cache(model: LynxModel) -> None:
    embeds, mask = prompts(model, [4, 7, 1])
    session = DecoderSession(model, embeds, mask, NUM_VISION)
    answers: list[list[int]] = [[], [], []]
    origins = [0, 1, 2]
    logits = session.prefill()
    # beams of rows 0 and 2, then beams change places, then row 0 leaves, then nothing moves
    for parents in ([0, 0, 2, 2], [1, 1, 3, 2], [2, 3, 3], None, [1, 0, 2]):
        for row, origin in enumerate(origins):
            wanted = uncached(model, embeds[origin], mask[origin], answers[row])
            torch.testing.assert_close(logits[row], wanted, rtol=1e-4, atol=1e-4)
        continued = range(len(origins)) if parents is None else parents
        origins = [origins[parent] for parent in continued]
        tokens = [5 + 7 * row + len(answers[0]) for row in range(len(origins))]
        answers = [[*answers[parent], token] for parent, token in zip(continued, tokens, strict=True)]
        logits = session.step(torch.tensor(tokens), None if parents is None else torch.tensor(parents))
    assert len(answers) == len(logits) == 3


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 1}])
def test_batch_equals_rows_alone_without_pads(model: LynxModel, settings: dict[str, int]) -> None:
    embeds, mask = prompts(model, [4, 9, 1], seed=3)
    config = GenerationConfig(max_new_tokens=20, **settings)
    together = search(DecoderSession(model, embeds, mask, NUM_VISION), config, **IDS)
    for row in range(3):
        alone = DecoderSession(model, embeds[row : row + 1, mask[row].bool()], None, NUM_VISION)
        assert search(alone, config, **IDS).token_ids == [together.token_ids[row]]


def test_session_leaves_its_inputs_alone_and_needs_no_gradient(model: LynxModel) -> None:
    embeds, mask = prompts(model, [2, 5])
    kept = embeds.clone(), mask.clone()
    with torch.enable_grad():
        output = search(DecoderSession(model, embeds, mask), GenerationConfig(max_new_tokens=3), **IDS)
    assert len(output.answers) == 2
    assert torch.equal(embeds, kept[0])
    assert torch.equal(mask, kept[1])


def test_refusals(model: LynxModel) -> None:
    embeds, mask = prompts(model, [2, 5])
    with pytest.raises(LynxError, match=r"attention_mask must be \[2, 8\] like inputs_embeds, got \[2, 7\]"):
        DecoderSession(model, embeds, mask[:, 1:])
    with pytest.raises(LynxError, match="an empty prompt cannot be continued"):
        DecoderSession(model, embeds[:, :0])
