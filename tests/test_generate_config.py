"""GenerationConfig: the rows of the paper's table, the authors' keys, and refusals that name the setting."""

from __future__ import annotations

from typing import Any

import pytest

from lynx_engine import LynxError
from lynx_engine.generate import PRESETS, GenerationConfig

# LYNX.md section 4: max new tokens, beams, top-p, top-k, length penalty, no-repeat n-gram, sampling
TABLE = {
    "describe": (64, 5, 1.0, 1, -2.0, 2, False),
    "open-vqa": (64, 5, 1.0, 1, -2.0, 2, False),
    "open-vqa-video": (128, 3, 1.0, 1, -1.0, 3, False),
    "owl-eval": (256, 3, 0.9, 3, 1.0, 3, True),
    "demo": (256, 3, 0.9, 3, 1.0, 3, True),
    "round-0": (128, 1, 0.9, 3, 1.0, 3, True),
    "release": (64, 5, 0.9, 3, -2.0, 2, True),
}


@pytest.mark.parametrize("name", TABLE)
def test_presets(name: str) -> None:
    c = GenerationConfig.preset(name)
    row = (c.max_new_tokens, c.num_beams, c.top_p, c.top_k, c.length_penalty, c.no_repeat_ngram_size, c.do_sample)
    assert row == TABLE[name]
    assert c.temperature == c.repetition_penalty == 1.0
    assert c.min_length == (2 if name == "release" else 0)
    assert GenerationConfig.preset(name.replace("-", "_")) is c


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(LynxError, match="unknown generation preset 'fast'; presets: describe, "):
        GenerationConfig.preset("fast")
    assert set(TABLE) | {"greedy"} == set(PRESETS)


def test_authors_keys() -> None:
    released = {
        "max_new_tokens": 64, "min_length": 2, "num_beams": 5, "length_penalty": -2.0, "top_p": 0.9, "top_k": 3,
        "no_repeat_ngram_size": 2, "use_nucleus_sampling": True, "image_res": 420, "apply_lemmatizer": False,
    }  # fmt: skip
    assert GenerationConfig.from_authors(released) == GenerationConfig.preset("release")
    assert GenerationConfig.from_authors(released, num_beams=1, release_compat=True) == GenerationConfig.preset(
        "release"
    ).replace(num_beams=1, release_compat=True)
    missing = GenerationConfig.from_authors({"no_repeat_ngram_size": -1, "use_nucleus_sampling": None})
    assert missing == GenerationConfig(
        num_beams=5, top_k=3, top_p=0.9, min_length=2, no_repeat_ngram_size=0, length_penalty=1.0
    )
    assert GenerationConfig.from_authors({}).no_repeat_ngram_size == 3


def test_dict_there_and_back() -> None:
    config = GenerationConfig(num_beams=3, stop=("\n", "User:"), seed=7, length_penalty=-1)
    assert GenerationConfig.from_dict(config.to_dict()) == config
    assert GenerationConfig(stop="\n").stop == ("\n",)
    assert GenerationConfig(temperature=1) == GenerationConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: wanted an integer of at least 1, got 0"),
        ({"num_beams": 2.0}, "num_beams: wanted an integer of at least 1, got 2.0"),
        ({"num_beams": True}, "num_beams: wanted an integer of at least 1, got True"),
        ({"top_k": -1}, "top_k: wanted an integer of at least 0, got -1"),
        ({"top_p": 1.5}, r"top_p: wanted a number in \[0, 1\], got 1.5"),
        ({"temperature": 0}, "temperature: wanted a number above 0, got 0.0"),
        ({"temperature": float("nan")}, "temperature: wanted a finite number, got nan"),
        ({"repetition_penalty": "1.2"}, "repetition_penalty: wanted a finite number, got '1.2'"),
        ({"length_penalty": 1e3}, "length_penalty: wanted a number in "),
        ({"do_sample": 1}, "do_sample: wanted True or False, got 1"),
        ({"stop": [""]}, "stop: wanted a list of non-empty strings"),
        ({"stop": 5}, "stop: wanted a list of non-empty strings, got 5"),
        ({"seed": -1}, "seed: wanted an integer in "),
        ({"num_return_sequences": 2}, "num_return_sequences 2 needs as many beams without do_sample, got num_beams 1"),
        ({"num_beams": 3, "num_return_sequences": 4}, "num_return_sequences 4 needs as many beams"),
        ({"beams": 3}, "unknown generation setting.* beams; known: max_new_tokens, "),
    ],
)
def test_refusals(values: dict[str, Any], message: str) -> None:
    with pytest.raises(LynxError, match=message):
        GenerationConfig.from_dict(values)
    with pytest.raises(LynxError, match=message):
        GenerationConfig().replace(**values)
