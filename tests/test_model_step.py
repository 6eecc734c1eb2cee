"""The decode step on prepared calls gives the numbers of the layers, to the bit, and steps aside where it cannot."""

from __future__ import annotations

import pytest
import torch
from small import SMALL, small_model
from torch import Tensor

from lynx_engine.generate import DecoderSession
from lynx_engine.model import LynxModel, decoder, step

MIXED = SMALL.replace(llm={"hidden_size": 32, "num_layers": 3})  # adapters in layers 0 and 2, none in 1


def answer(model: LynxModel, mask: Tensor | None, steps: int = 70) -> Tensor:
    """Logits of several steps of two rows, one of them moved on the way; long enough for the cache to grow."""
    embeds = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)).to(model.dtype)
    session = DecoderSession(model, embeds, mask)
    logits = [session.prefill()]
    for number in range(steps):
        parents = torch.tensor([1, 0, 1]) if number == 3 else None
        tokens = logits[-1].argmax(1) if parents is None else torch.tensor([3, 4, 5])
        logits.append(session.step(tokens, parents))
    return torch.cat(logits).float()


def spied(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of every step, whether the prepared calls made it."""
    made = []

    def spy(*args):
        hidden = step.decode_step(*args)
        made.append(hidden is not None)
        return hidden

    monkeypatch.setattr(decoder, "decode_step", spy)
    return made


@pytest.mark.parametrize("masked", [False, True])
def test_a_step_gives_the_numbers_of_the_layers(any_backend, monkeypatch, masked) -> None:
    if any_backend == "cpu_avx512_bf16":
        pytest.skip("norms have no such backend: LYNX_BACKEND names one for every op")
    model = small_model(MIXED).to(torch.bfloat16).pack()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 1]]) if masked else None
    made = spied(monkeypatch)
    got = answer(model, mask)
    assert len(made) == 70 and all(made) == (any_backend != "reference")
    monkeypatch.setattr(decoder, "decode_step", lambda *args: None)
    assert torch.equal(got, answer(model, mask))


def test_layers_that_are_not_packed_run_as_they_are(monkeypatch) -> None:
    model = small_model().pack()
    model.LLM.model.layers[1].mlp.down_proj.unpack()
    made = spied(monkeypatch)
    answer(model, None, steps=5)
    assert made == [False] * 5


def test_gradients_go_through_the_layers(monkeypatch) -> None:
    made = spied(monkeypatch)
    model = small_model().pack()
    model(torch.tensor([[1]]), labels=torch.tensor([[1]]))
    assert made == []
