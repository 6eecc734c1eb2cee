"""The decode step on prepared calls gives the numbers of the layers, to the bit, and steps aside where it cannot."""

from __future__ import annotations

import pytest
import torch
from small import SMALL, small_model
from torch import Tensor

from lynx_engine.generate import DecoderSession
from lynx_engine.model import LynxModel, decoder, step
from lynx_engine.model.linear import Linear
from lynx_engine.weights.quantized import Quantization, quantize_model

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


FORMATS = [None, ("int8", None), ("int4", 32)]
every_format = pytest.mark.parametrize("format", FORMATS, ids=lambda format: format[0] if format else "packed")


def prepared(format: tuple[str, int | None] | None) -> LynxModel:
    model = small_model(MIXED).to(torch.bfloat16)
    return (model if format is None else quantize_model(model, Quantization(*format))).pack()


@every_format
@pytest.mark.parametrize("masked", [False, True])
def test_a_step_gives_the_numbers_of_the_layers(any_backend, monkeypatch, masked, format) -> None:
    if any_backend == "cpu_avx512_bf16":
        pytest.skip("norms have no such backend: LYNX_BACKEND names one for every op")
    model = prepared(format)
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


def test_layers_of_both_kinds_run_as_they_are(monkeypatch) -> None:
    """A layer that is quantised among others that are packed, and one with a single quantised linear."""
    for quantised in (slice(1, 2), slice(0)):
        model = prepared(None).unpack()
        layers = model.LLM.model.layers
        for linear in [m for layer in layers[quantised] for m in layer.modules() if isinstance(m, Linear)]:
            linear.quantize("int8")
        layers[0].mlp.down_proj.quantize("int8")
        made = spied(monkeypatch)
        got = answer(model.pack(), None, steps=5)
        assert made == [False] * 5 and got.isfinite().all()


@every_format
def test_rows_do_not_see_each_other(format) -> None:
    """A row's logits, prefilled and decoded, alone or beside another."""
    model = prepared(format)
    embeds = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)).bfloat16()

    def run(rows: Tensor) -> Tensor:
        session = DecoderSession(model, rows, None)
        tokens = [torch.full([len(rows)], token) for token in range(5)]
        return torch.stack([session.prefill(), *(session.step(token, None) for token in tokens)], dim=1)

    assert torch.equal(run(embeds), torch.cat([run(row[None]) for row in embeds]))


def test_gradients_go_through_the_layers(monkeypatch) -> None:
    made = spied(monkeypatch)
    model = small_model().pack()
    model(torch.tensor([[1]]), labels=torch.tensor([[1]]))
    assert made == []
