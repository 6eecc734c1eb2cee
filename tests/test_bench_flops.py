"""The formulas of bench/flops.py count what torch's own counter counts, part by part, on the demo preset."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bench import flops
from bench.flops import Stored
from lynx_engine import LynxConfig, ops
from lynx_engine.demo import new_model
from lynx_engine.generate import DecoderSession, KVCache
from lynx_engine.model import IGNORE_INDEX, LynxModel
from lynx_engine.weights import Quantization, quantize_model
from lynx_engine.weights.info import PARTS, part_of

CONFIG = LynxConfig.preset("demo")
BATCH, TEXT = 2, 9
FLOAT = Stored(4)
POSITIONS = CONFIG.bridge.num_latents + TEXT


@pytest.fixture(autouse=True)
def _references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ops in plain torch: a compiled kernel's products are hidden from the counter."""
    for name in ("adapter_mlp", "linear", "patch_embed", "prefix_attention"):
        module = importlib.import_module(f"lynx_engine.kernels.{name}.reference")
        monkeypatch.setattr(ops, name, getattr(module, f"{name}_reference"))


@pytest.fixture(scope="module")
def model() -> LynxModel:
    return new_model()


def counted(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def hidden_pairs(times: int) -> int:
    """FLOPs of the pairs that causality hides: the counter sees them, since the reference computes all and masks."""
    hidden = POSITIONS**2 - flops.causal_pairs(POSITIONS, POSITIONS)
    return times * CONFIG.llm.num_layers * flops.attention(CONFIG.llm.hidden_size, BATCH * hidden)


def pixels() -> torch.Tensor:
    side = CONFIG.vision.image_size
    return torch.zeros(BATCH, side, side, 3, dtype=torch.uint8)


def test_vision_and_resampler(model: LynxModel) -> None:
    wanted = counted(lambda: model.vision_encoder(pixels()))
    assert flops.vision(CONFIG, BATCH, FLOAT).flops == wanted
    media = torch.zeros(BATCH, CONFIG.vision.num_tokens, CONFIG.vision.hidden_size)
    assert flops.resampler(CONFIG, BATCH, FLOAT).flops == counted(lambda: model.bridge(media))


def test_prefill(model: LynxModel) -> None:
    embeds = torch.zeros(BATCH, POSITIONS, CONFIG.llm.hidden_size)
    wanted = counted(lambda: DecoderSession(model, embeds).prefill()) - hidden_pairs(times=1)
    assert flops.prefill(CONFIG, BATCH, POSITIONS, FLOAT).flops == wanted


def test_decode(model: LynxModel) -> None:
    cache = KVCache(CONFIG.llm.num_layers)
    model.decode(torch.zeros(BATCH, POSITIONS, CONFIG.llm.hidden_size), cache=cache)
    new = torch.zeros(BATCH, 1, CONFIG.llm.hidden_size)
    wanted = counted(lambda: model.logits(model.decode(new, cache=cache)))
    assert flops.decode(CONFIG, BATCH, POSITIONS, FLOAT).flops == wanted


def test_answer_is_a_prefill_and_its_steps() -> None:
    wanted = flops.prefill(CONFIG, 1, 7, FLOAT) + flops.decode(CONFIG, 5, 7, FLOAT) + flops.decode(CONFIG, 5, 8, FLOAT)
    assert flops.answer(CONFIG, 5, 7, 3, FLOAT) == wanted


def test_train_step(model: LynxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = torch.ones(BATCH, TEXT, dtype=torch.int64)

    def asked_logits(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, **_: Any) -> torch.Tensor:
        kept = labels != IGNORE_INDEX
        return F.cross_entropy(hidden[kept] @ weight.T, labels[kept])

    def step() -> None:
        model.loss(ids, images=pixels(), labels=ids).backward()

    monkeypatch.setattr(ops, "fused_linear_cross_entropy", asked_logits)

    wanted = counted(step) - hidden_pairs(times=3)
    assert flops.train_step(CONFIG, BATCH, TEXT, FLOAT).flops == wanted


def test_bytes_are_the_weights_and_what_goes_in_and_out(model: LynxModel) -> None:
    """Parameters that a step must read, counted off the modules themselves."""
    decoder = sum(p.numel() for p in model.LLM.parameters()) - model.LLM.model.embed_tokens.weight.numel()
    hidden, vocab, layers = CONFIG.llm.hidden_size, CONFIG.llm.vocab_size, CONFIG.llm.num_layers
    cache = 2 * layers * 3 * 11 * hidden
    assert flops.decode(CONFIG, 3, 10, Stored(2)).bytes == 2 * (decoder + 3 * hidden + cache + 3 * vocab)
    vit = sum(p.numel() for p in model.vision_encoder.parameters())
    tokens = 3 * CONFIG.vision.num_tokens * CONFIG.vision.hidden_size
    assert flops.vision(CONFIG, 3, Stored(2)).bytes == 2 * (vit + tokens) + 3 * 3 * CONFIG.vision.image_size**2


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_bytes_of_quantised_linears(format: str) -> None:
    """What the tensors of a quantised model take, part by part."""
    made = quantize_model(new_model().bfloat16(), Quantization(format))
    sizes = dict.fromkeys(PARTS, 0)
    for name, tensor in made.state_dict().items():
        sizes[part_of(name)] += tensor.nbytes
    assert Stored(2, format).bytes_of(CONFIG) == sizes
    plain, quantised = (flops.decode(CONFIG, 1, 0, Stored(2, how)).bytes for how in (None, format))
    parts = Stored(2).bytes_of(CONFIG)
    assert plain - quantised == parts["LLM"] - sizes["LLM"] > 0
