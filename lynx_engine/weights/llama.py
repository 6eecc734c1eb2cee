"""A Hugging Face LLaMA folder: config.json, tokenizer, `.bin` or safetensors shards (REFERENCE.md section 6)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import LlamaConfig
from ..errors import LynxError
from ..text import Tokenizer
from .files import Source, TensorFile
from .fit import is_buffer

_SINGLE = ("model.safetensors", "pytorch_model.bin")
_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SUPPORTED = {
    "model_type": "llama",
    "hidden_act": "silu",
    "rope_scaling": None,
    "attention_bias": False,
    "mlp_bias": False,
}
_EMBEDDINGS = ("LLM.model.embed_tokens.weight", "LLM.lm_head.weight")


@dataclass(frozen=True)
class LlamaFolder:
    """An opened folder. `adds_pad`: its files define no pad token, so that both embeddings grow by the row of [PAD]."""

    path: Path
    config: LlamaConfig
    adds_pad: bool
    ties_embeddings: bool
    files: tuple[TensorFile, ...]

    @classmethod
    def open(cls, folder: str | Path) -> LlamaFolder:
        path = Path(folder)
        if not path.is_dir():
            raise LynxError(f"{path}: no such folder; wanted a Hugging Face LLaMA folder")
        values = read_json(path / "config.json")
        tokenizer = Tokenizer.from_folder(path)
        adds_pad = _adds_pad(path, values, tokenizer)
        config = _config(path, values, tokenizer)
        return cls(path, config, adds_pad, values.get("tie_word_embeddings") is True, tuple(_shards(path)))

    def sources(self) -> dict[str, Source]:
        """Sources by `LLM.*` name, without RoPE's buffers."""
        sources = {
            "LLM." + name: Source.of(file, name) for file in self.files for name in file.shapes if not is_buffer(name)
        }
        embed, head = _EMBEDDINGS
        if self.ties_embeddings and embed in sources:
            sources.setdefault(head, sources[embed])
        for name in _EMBEDDINGS if self.adds_pad else ():
            if name in sources:
                sources[name] = self._with_pad_row(sources[name])
        return sources

    def notes(self) -> tuple[str, ...]:
        """How the pad token came about."""
        if self.adds_pad:
            return (f"{self.path.name}: no pad token; [PAD] is {self.config.pad_token_id}, the mean of the other rows",)
        return (f"{self.path.name}: pad token {self.config.pad_token_id}",)

    def _with_pad_row(self, source: Source) -> Source:
        if len(source.shape) != 2 or source.shape[0] != self.config.vocab_size - 1:
            return source  # reported as a misfit
        return source.changed((source.shape[0] + 1, source.shape[1]), append_mean_row)


def append_mean_row(embedding: Tensor) -> Tensor:
    """[V, H] -> float32 [V + 1, H]; the new row is the float32 mean over all V rows."""
    rows = torch.empty(embedding.shape[0] + 1, embedding.shape[1])
    rows[:-1] = embedding
    rows[-1] = rows[:-1].mean(dim=0)
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; LynxError names a file that is missing, damaged, or something else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise LynxError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise LynxError(f"{path}: wanted a JSON object, got {type(values).__name__}")
    return values


def _adds_pad(folder: Path, values: Mapping[str, Any], tokenizer: Tokenizer) -> bool:
    vocab_size = values.get("vocab_size")
    if not isinstance(vocab_size, int) or len(tokenizer) - vocab_size not in (0, 1):
        raise LynxError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens with its pad token, "
            f"but config.json says vocab_size {vocab_size!r}: wanted the same number or one less"
        )
    return len(tokenizer) == vocab_size + 1


def _config(folder: Path, values: Mapping[str, Any], tokenizer: Tokenizer) -> LlamaConfig:
    """Sizes from config.json, special ids from the tokenizer; BOS is generation_config.json's, where there is one."""
    path = folder / "config.json"
    _check_supported(path, values)
    generation = folder / "generation_config.json"
    bos = {**values, **(read_json(generation) if generation.is_file() else {})}.get("bos_token_id", 1)
    given = {
        "hidden_size": values.get("hidden_size"),
        "num_layers": values.get("num_hidden_layers"),
        "num_heads": values.get("num_attention_heads"),
        "intermediate_size": values.get("intermediate_size"),
        "rms_norm_eps": values.get("rms_norm_eps", 1e-6),
        "rope_theta": values.get("rope_theta", 10000.0),
        "max_position_embeddings": values.get("max_position_embeddings", 2048),
        "bos_token_id": bos,
    }
    floats = ("rms_norm_eps", "rope_theta")
    wrong = [
        f"{key}: wanted {'a number' if key in floats else 'an integer'}, got {value!r}"
        for key, value in given.items()
        if isinstance(value, bool) or not isinstance(value, (int, float) if key in floats else int)
    ]
    if wrong:
        raise LynxError(f"{path}: {'; '.join(wrong)}")
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return LlamaConfig(vocab_size=len(tokenizer), **special, **given)


def _check_supported(path: Path, values: Mapping[str, Any]) -> None:
    wanted = {**_SUPPORTED, "num_key_value_heads": values.get("num_attention_heads")}
    wrong = [
        f"{key} {values[key]!r}: only {value!r} is supported"
        for key, value in wanted.items()
        if values.get(key) is not None and values[key] != value
    ]
    if wrong:
        raise LynxError(f"{path}: {'; '.join(wrong)}")


def _shards(folder: Path) -> list[TensorFile]:
    """The folder's tensor files where Hugging Face 4.28 looks for them, safetensors before `.bin`."""
    for single, index in zip(_SINGLE, _INDEX, strict=True):
        if (folder / single).is_file():
            return [TensorFile(folder / single)]
        if (folder / index).is_file():
            return [TensorFile(path) for path in indexed_files(folder / index)]
    raise LynxError(f"{folder}: no weights; wanted one of {', '.join(_SINGLE + _INDEX)}")


def indexed_files(index: Path) -> list[Path]:
    """The shards that an index json names, all of them present in its folder."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise LynxError(f"{index}: wanted a non-empty weight_map")
    names = list(dict.fromkeys(str(name) for name in weight_map.values()))
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise LynxError(f"{index}: weight_map must name files in this folder, got {', '.join(map(repr, outside))}")
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise LynxError(f"{index.parent}: lacks {', '.join(absent)}, which {index.name} names")
    return [index.parent / name for name in names]
