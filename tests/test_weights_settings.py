"""The authors' configuration and its overrides; parameter counts of whole models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lynx_engine.config import LynxConfig
from lynx_engine.errors import LynxError
from lynx_engine.weights import count_parameters, read_settings
from lynx_engine.weights.fit import Plan

YAML = """
# the authors' style
image_rdir: './images/'
test_files: [ 'test.jsonl' ]
prompt: "User: {question}\\nBot:"
data: {
  num_frames: 5,
}
video_encoding: 'concate'
use_adapter: True
adapter_freq: 2
image_mean: [0.48145466, 0.4578275, 0.40821073]
length_penalty: -2.0
top_p: 0.9
checkpoint:
"""


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(YAML)
    settings = read_settings(tmp_path / "a.yaml")
    (tmp_path / "a.json").write_text(json.dumps(settings.values))
    assert read_settings(tmp_path / "a.json").values == settings.values
    assert settings.get("prompt") == "User: {question}\nBot:"
    assert settings.get("data.num_frames") == 5
    assert settings.get("use_adapter") is True
    assert settings.get("length_penalty") == -2.0
    assert "checkpoint" not in settings
    assert settings.get("checkpoint", "none") == "none"


def test_t4_configuration(fixtures_dir: Path) -> None:
    settings = read_settings(fixtures_dir / "T4" / "lynx_config.json")
    assert settings.unknown == ()
    assert (settings.get("image_res"), settings.get("data.num_frames"), settings.get("num_beams")) == (84, 5, 5)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("num_beams=1", "num_beams", 1),
        ("top_p=0.5", "top_p", 0.5),
        ("top_p=1e-4", "top_p", 1e-4),
        ("length_penalty=-2", "length_penalty", -2),
        ("use_adapter=false", "use_adapter", False),
        ("data.num_frames=3", "data.num_frames", 3),
        ("max_new_tokens=010", "max_new_tokens", 10),
        ("prompt=a = b", "prompt", "a = b"),
        ("prompt=yes", "prompt", "yes"),
        ('prompt="1\\n2"', "prompt", "1\n2"),
        ("adapter_freq=", "adapter_freq", None),
        ("test_files=[a.jsonl, b.jsonl]", "test_files", ["a.jsonl", "b.jsonl"]),
        ("new.key.deep=1", "new.key.deep", 1),
    ],
)
def test_overrides_are_typed_as_yaml(override: str, key: str, value: Any) -> None:
    base = {"data": {"num_frames": 5, "kept": 1}, "adapter_freq": 2}
    settings = read_settings(base, [override])
    assert settings.get(key) == value
    assert type(settings.get(key)) is type(value)
    assert settings.get("data.kept") == 1
    assert base["data"] == {"num_frames": 5, "kept": 1}


def test_the_last_override_counts() -> None:
    assert read_settings(None, ["num_beams=1", "num_beams=3"]).get("num_beams") == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_beams", r"wanted key=value"),
        ("=3", r"wanted key=value"),
        ("data..num_frames=3", r"wanted key=value"),
        ("test_files=[a", r"not YAML"),
        ("num_beams=many", r"num_beams: wanted an integer, got 'many'"),
        ("num_beams=2.5", r"num_beams: wanted an integer, got 2.5"),
        ("num_beams=true", r"num_beams: wanted an integer, got True"),
        ("use_adapter=1", r"use_adapter: wanted true or false, got 1"),
        ("data=3", r"data: wanted a table, got 3"),
        ("prompt=7", r"prompt: wanted text, got 7"),
    ],
)
def test_wrong_overrides(override: str, message: str) -> None:
    with pytest.raises(LynxError, match=message) as caught:
        read_settings(None, [override])
    assert "\n" not in str(caught.value)


def test_every_wrong_value_is_in_one_error() -> None:
    with pytest.raises(LynxError, match="adapter_freq: .*; top_p: "):
        read_settings({"top_p": "high", "adapter_freq": "2"})


def test_unknown_keys_are_kept_and_named() -> None:
    settings = read_settings({"num_beams": 2, "wandb_project": "x"}, ["vit_num_head=4"])
    assert settings.unknown == ("wandb_project", "vit_num_head")
    assert settings.get("wandb_project") == "x"


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.yaml", b"a: [1"), ("a.yaml", b"- 1\n"), ("a.json", b"{"), ("a.yaml", b"\xff\xfe\xff"), ("a.yaml", b"1: 2")],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LynxError, match=name) as caught:
        read_settings(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_yaml_objects_are_not_made(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: !!python/object/apply:os.mkdir [made]")
    with pytest.raises(LynxError, match="cannot be read as a configuration"):
        read_settings(tmp_path / "a.yaml")


def test_parameters_of_lynx_8b() -> None:
    counts = count_parameters(LynxConfig.preset("lynx_8b"))
    assert counts.parts == {
        "vision_encoder": 986_801_280,
        "bridge": 419_758_336,
        "LLM": 6_738_423_808,
        "adapters": 268_664_848,
        "absolute_frame_pos_embed": 7_040,
    }
    assert (counts.total, counts.trained) == (8_413_655_312, 688_430_224)


def test_parameters_without_an_added_pad_token() -> None:
    config = LynxConfig().replace(llm={"vocab_size": 32000, "pad_token_id": 0})
    assert count_parameters(config).total == 8_413_647_120


def test_parameters_of_a_model_without_adapters_and_frames() -> None:
    counts = count_parameters(LynxConfig().replace(adapter_freq=None, num_frames=None))
    assert counts.parts["adapters"] == counts.parts["absolute_frame_pos_embed"] == 0
    assert counts.trained == counts.parts["bridge"]


def test_names_and_shapes_of_the_official_model(fixtures_dir: Path) -> None:
    official = json.loads((fixtures_dir / "official_8b_params.json").read_text())["state_dict"]
    wanted = {name: tuple(shape) for name, shape in official.items() if not name.endswith("inv_freq")}
    assert dict(Plan.of(LynxConfig()).shapes) == wanted
