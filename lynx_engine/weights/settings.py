"""The authors' configuration (YAML or JSON, their key names) with `key=value` overrides on top.

Four more keys say what the authors' code has as constants, so that other models than Lynx-8B can be described:
`vit_num_heads` (weights do not tell it), `vit_depth` (blocks of the vision file that are used), `bridge_num_heads`
(8 heads of 64 unless told), `prefix_attention` ("causal" or "bidirectional").
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import LynxError

_KINDS: dict[str, tuple[type, ...]] = {
    "an integer": (int,),
    "a number": (int, float),
    "true or false": (bool,),
    "text": (str,),
    "a list": (list, tuple),
    "a table": (Mapping,),
}

_KEYS_OF_KIND: dict[str, str] = {
    "an integer": "adapter_freq bridge_depth num_bridge_tokens image_res vit_num_heads vit_depth bridge_num_heads "
    "max_input_tokens batch_size_test max_new_tokens min_length num_beams top_k no_repeat_ngram_size data.num_frames",
    "a number": "length_penalty top_p temperature repetition_penalty label_smoothing",
    "true or false": "add_frame_pos use_flash_attn use_adapter use_left_pad lower_text freeze_vit freeze_llm "
    "apply_lemmatizer use_nucleus_sampling",
    "text": "image_rdir prompt vision_prompt_dict output_prompt_dict vision_encoder video_encoding LLM bridge "
    "checkpoint prefix_attention",
    "a list": "test_files image_mean image_std",
    "a table": "data",
}

KNOWN_KEYS: dict[str, str] = {key: kind for kind, keys in _KEYS_OF_KIND.items() for key in keys.split()}


@dataclass(frozen=True)
class Settings:
    """Checked values by the authors' key names; `where` names their source in messages.

    A key whose value is null counts as absent, as in the authors' files.
    """

    values: Mapping[str, Any]
    where: str = "configuration"

    def __post_init__(self) -> None:
        problems = []
        for key, kind in KNOWN_KEYS.items():
            value = self.get(key)
            if value is None:
                continue
            fits = isinstance(value, _KINDS[kind]) and (isinstance(value, bool) == (kind == "true or false"))
            if not fits:
                problems.append(f"{key}: wanted {kind}, got {value!r}")
        if problems:
            raise LynxError(f"{self.where}: {'; '.join(problems)}")

    def get(self, key: str, default: Any = None) -> Any:
        """The value at `key`; a dot enters a table, as in `data.num_frames`."""
        value: Any = self.values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return default if value is None else value

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    @property
    def unknown(self) -> tuple[str, ...]:
        """Top-level keys that nothing here reads; the authors' code ignores such keys too."""
        return tuple(key for key in self.values if key not in KNOWN_KEYS)


def read_settings(source: str | Path | Mapping[str, Any] | Settings | None, overrides: Sequence[str] = ()) -> Settings:
    """Settings of a YAML or JSON file (or a mapping), `overrides` like `num_beams=1` or `data.num_frames=3` applied.

    Values of overrides are read as YAML: `top_p=0.9` a float, `use_adapter=false` a bool, `prompt='{question}'` text.
    Raises LynxError for a file that cannot be read, a malformed override, or a known key with a value of another type.
    """
    if isinstance(source, Settings):
        values, where = dict(source.values), source.where
    elif isinstance(source, Mapping):
        values, where = dict(source), "configuration"
    elif source is None:
        values, where = {}, "--set"
    else:
        values, where = _read_file(Path(source)), str(source)
    for override in overrides:
        values = _overridden(values, override)
    if overrides and where != "--set":
        where += " with --set"
    return Settings(values, where)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = json.loads(text) if path.suffix.lower() == ".json" else yaml.load(text, _Loader)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, yaml.YAMLError, RecursionError) as error:
        raise LynxError(f"{path}: cannot be read as a configuration: {_one_line(error)}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise LynxError(f"{path}: wanted a table of settings, got {type(values).__name__}")
    return values


def _overridden(values: Mapping[str, Any], override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise LynxError(f"--set {override}: wanted key=value, for example num_beams=1 or data.num_frames=3")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise LynxError(f"--set {override}: the value is not YAML: {_one_line(error)}") from error
    return _with(values, parts, value)


def _with(values: Any, parts: list[str], value: Any) -> dict[str, Any]:
    """A copy of the table `values` with `value` at the path `parts`."""
    table = dict(values) if isinstance(values, Mapping) else {}
    head, *rest = parts
    table[head] = _with(table.get(head), rest, value) if rest else value
    return table


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars, as the authors' ruamel.yaml reads them: `yes` is text, `1e-4` a float, `0700` not octal."""


_Loader.yaml_implicit_resolvers = {}
_NUMBER_STARTS = "-+.0123456789"
_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "int": (r"[-+]?[0-9]+", _NUMBER_STARTS),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        _NUMBER_STARTS,
    ),
    "merge": (r"<<", "<"),
}
for _tag, (_pattern, _starts) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_starts))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(str(node.value)))
