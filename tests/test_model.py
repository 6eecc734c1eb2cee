"""The model's own rules: sizes, freezing, masks, text-only and mixed batches, clear refusals."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from small import SMALL, small_model

from lynx_engine import LynxConfig, LynxError
from lynx_engine.model import LynxModel, init_parameters


def meta(config: LynxConfig) -> LynxModel:
    with torch.device("meta"):
        return LynxModel(config)


def test_lynx_8b_has_the_published_sizes():
    """REFERENCE.md section 2, part by part, without allocating."""
    model = meta(LynxConfig.preset("lynx_8b"))
    parts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        parts["adapters" if ".output_adapter." in name else name.partition(".")[0]] += parameter.numel()
    assert dict(parts) == {
        "vision_encoder": 986_801_280,
        "bridge": 419_758_336,
        "LLM": 6_738_423_808,
        "adapters": 268_664_848,
        "absolute_frame_pos_embed": 7_040,
    }
    assert sum(parts.values()) == 8_413_655_312
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 688_430_224
    with_pad_in_files = LynxConfig().replace(llm={"vocab_size": 32000, "pad_token_id": 0})
    assert sum(p.numel() for p in meta(with_pad_in_files).parameters()) == 8_413_647_120


def test_lynx_8b_has_the_authors_names(fixtures_dir):
    entries = json.loads((fixtures_dir / "official_8b_params.json").read_text())["state_dict"]
    want = {name: tuple(shape) for name, shape in entries.items() if not name.endswith("inv_freq")}
    assert {name: tuple(p.shape) for name, p in meta(LynxConfig()).state_dict().items()} == want


@pytest.mark.parametrize("name", ["lynx_13b", "lynx_30b", "lynx_65b"])
def test_larger_presets_keep_llamas_head_dim(name):
    assert LynxConfig.preset(name).llm.head_dim == 128
    assert sum(p.numel() for p in meta(LynxConfig.preset(name)).LLM.parameters()) > 13e9


def test_init_is_reproducible_and_as_drawn_by_the_authors():
    first, second = small_model(seed=3), small_model(seed=3)
    other = small_model(seed=4)
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.unique().numel() == 1 or not torch.equal(a, c), name
    layer = first.LLM.model.layers[0]
    assert layer.output_adapter.scaling.item() == 1.0
    assert layer.output_adapter.adapter_up.weight.std().item() == pytest.approx(0.02, rel=0.1)
    shrunk = first.vision_encoder.blocks[1].attn.proj.weight.std().item()
    assert shrunk == pytest.approx(0.02 / 2, rel=0.15)


def test_freeze_chooses_what_trains():
    model = small_model()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "LLM.model.layers.0.output_adapter.scaling" in trained
    assert not any(name.startswith("vision_encoder.") or "self_attn" in name for name in trained)
    model.freeze(vision=False, llm=False)
    assert all(p.requires_grad for p in model.parameters())


def test_bidirectional_prefix_opens_the_vision_tokens_only():
    """Without adapters after it, the first layer's text rows see the same keys in both modes."""
    ids = torch.tensor([[1, 5, 6]])
    pixels = torch.randn(1, 3, 28, 28)
    hidden = {}
    for mode in ("causal", "bidirectional"):
        model = small_model(SMALL.replace(prefix_attention=mode, llm={"num_layers": 1}))
        with torch.no_grad():
            vision = model.encode_images(pixels)
            hidden[mode] = model.decode(model.embed(ids, vision), num_vision_tokens=3)
    difference = (hidden["causal"] - hidden["bidirectional"]).abs().amax(-1)[0]
    assert difference[:2].min() > 1e-4
    assert difference[2:].max() < 1e-6


def test_padded_rows_equal_rows_alone():
    """With positions that skip pads, a padded row's logits are those of the row alone."""
    model = small_model()
    ids = torch.tensor([[49, 49, 1, 7], [1, 8, 9, 10]])
    mask = (ids != 49).long()
    vision = torch.randn(2, 3, 32)
    whole = torch.cat((torch.ones(2, 3, dtype=torch.long), mask), dim=1)
    positions = (whole.cumsum(-1) - 1).masked_fill(whole == 0, 1)
    with torch.no_grad():
        batch = model.logits(model.decode(model.embed(ids, vision), whole, positions))
        alone = model.logits(model.decode(model.embed(ids[:1, 2:], vision[:1])))
    assert torch.allclose(batch[0, -2:], alone[0, -2:], atol=1e-6)


def test_loss_counts_only_labelled_positions():
    model = small_model()
    ids = torch.tensor([[1, 7, 8, 2]])
    labels = torch.tensor([[-100, -100, 8, 2]])
    output = model(ids, images=torch.randn(1, 3, 28, 28), labels=labels)
    log_probs = output.logits.log_softmax(-1)
    want = -(log_probs[0, 4, 8] + log_probs[0, 5, 2]) / 2
    assert output.loss.item() == pytest.approx(want.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode_images(torch.zeros(1, 3, 56, 56)), r"images must be torch.float32 \[B, 3, 28, 28\], got"),
        (lambda m: m.encode_videos(torch.zeros(1, 3, 3, 28, 28)), r"videos must be .* \[B, 2, 3, 28, 28\]"),
        (lambda m: m.embed(torch.tensor([[50]])), r"input_ids must be in \[0, 50\), got 50..50"),
        (lambda m: m.embed(torch.tensor([[1]]), torch.zeros(2, 3, 32)), "2 images or videos for 1 rows of text"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(LynxError, match=message):
        call(small_model())


def test_image_only_model_refuses_clips():
    model = small_model(SMALL.replace(num_frames=None))
    with pytest.raises(LynxError, match="takes images only"):
        model.encode_videos(torch.zeros(1, 2, 3, 28, 28))
    assert model.absolute_frame_pos_embed is None


def test_init_fills_every_parameter():
    model = LynxModel(SMALL)
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    init_parameters(model)
    assert all(p.isfinite().all() for p in model.parameters())
