"""Configuration: presets, JSON, and refusal of what cannot be."""

from __future__ import annotations

import json

import pytest

from lynx_engine import LynxConfig, LynxError
from lynx_engine.config import PRESETS, LlamaConfig, VisionConfig


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name, tmp_path):
    config = LynxConfig.preset(name)
    path = tmp_path / "config.json"
    path.write_text(config.to_json())
    assert LynxConfig.from_json(path) == config


@pytest.mark.parametrize(("freq", "layers"), [(1, 32), (2, 16), (4, 8), (None, 0)])
def test_adapter_layers(freq, layers):
    assert len(LynxConfig().replace(adapter_freq=freq).adapter_layers) == layers
    assert LynxConfig().replace(adapter_freq=4).adapter_layers[:3] == (0, 4, 8)


def test_replace_reaches_into_parts():
    config = LynxConfig().replace(vision={"image_size": 224}, prefix_attention="bidirectional")
    assert config.vision.num_tokens == 257
    assert config.vision.hidden_size == 1408


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VisionConfig(image_size=50), "image_size 50 is not a multiple of patch_size 14"),
        (lambda: LlamaConfig(num_heads=3), "hidden_size 4096 is not a multiple of num_heads 3"),
        (lambda: LlamaConfig(pad_token_id=40000), "pad_token_id 40000 is outside vocab_size 32001"),
        (lambda: LynxConfig(adapter_freq=0), "adapter_freq must be >= 1 or None, got 0"),
        (lambda: LynxConfig(prefix_attention="full"), "prefix_attention must be 'causal' or 'bidirectional'"),
        (lambda: LynxConfig.preset("lynx_9b"), "unknown preset 'lynx_9b'; presets: lynx_8b"),
        (lambda: LynxConfig.from_dict({"vison": {}}), "config: unknown key.s. vison"),
        (lambda: LynxConfig.from_dict({"llm": {"num_heads": "8"}}), "config.llm.num_heads: wanted int, got '8'"),
        (lambda: LynxConfig.from_dict({"llm": 8}), "config.llm: wanted an object, got int"),
        (lambda: LynxConfig.from_dict({"lower_text": 1}), "config.lower_text: wanted bool, got 1"),
    ],
)
def test_refusals_name_the_value(make, message):
    with pytest.raises(LynxError, match=message):
        make()


def test_broken_json_names_the_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({})[:-1])
    with pytest.raises(LynxError, match="config.json: cannot be read as a JSON configuration"):
        LynxConfig.from_json(path)
