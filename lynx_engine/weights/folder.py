"""The engine's own format: one folder of sharded safetensors that loads memory-mapped.

config.json                       LynxConfig
settings.json                     the authors' settings that came with the weights (prompt, generation, data)
tokenizer.model, *.json           the tokenizer's files as they were
model-00001-of-0000N.safetensors  tensors named as in REFERENCE.md section 2, in one dtype; or see quantized.py
model.safetensors.index.json      which shard holds which tensor; written last, and it marks the folder as ours
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import LynxConfig
from ..errors import LynxError
from ..model import LynxModel
from .files import TensorFile
from .fit import Shape, load_tensors_into, meta_model, raise_misfits
from .llama import indexed_files, read_json
from .quantized import Quantization
from .shards import DTYPES, Progress, Shard, plan_shards, write_shards

INDEX = "model.safetensors.index.json"
_FORMAT = "lynx_engine"
_TOKENIZER_FILES = ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_PARTIAL = ".partial"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


def save_folder(
    out: str | Path,
    config: LynxConfig,
    shapes: Mapping[str, Shape],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    tokenizer_folder: Path,
    dtype: str = "float32",
    quantization: Quantization | None = None,
    settings: Mapping[str, Any] | None = None,
    max_shard_bytes: int = 2**30,
    progress: Progress | None = None,
) -> Path:
    """Write a model; `tensors` yields (name, tensor of `dtype`) in the order of `shapes` and is read one at a time.

    With `quantization` the model's linears are quantised on the way.

    Files get temporary names, are synced, and are renamed when all are whole; on failure nothing is left behind.
    An existing folder is replaced only if this function wrote it. Raises LynxError for anything else in the way.
    """
    out = Path(out)
    if dtype not in DTYPES:
        raise LynxError(f"dtype: wanted one of {', '.join(DTYPES)}, got {dtype!r}")
    before = _existing_files(out)
    dtypes = dict.fromkeys(shapes, DTYPES[dtype])
    if quantization is not None:
        plain = meta_model(config)
        shapes, dtypes = quantization.stored(plain, shapes, DTYPES[dtype])
        tensors = quantization.tensors(plain, tensors)
    shards = plan_shards(shapes, dtypes, max_shard_bytes)
    texts = {n: (tokenizer_folder / n).read_bytes() for n in _TOKENIZER_FILES if (tokenizer_folder / n).is_file()}
    texts |= {"config.json": config.to_json().encode(), "settings.json": _json(settings or {})}
    texts[INDEX] = _json(_index(shards, dtype, quantization))
    created = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_shards([out / (shard.file_name + _PARTIAL) for shard in shards], shards, tensors, progress)
        for name, content in texts.items():
            _write(out / (name + _PARTIAL), content)
        _publish(out, [*(shard.file_name for shard in shards), *texts], before)
    except OSError as error:
        raise LynxError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        _remove_leftovers(out, created)
    return out


def _index(shards: Sequence[Shard], dtype: str, quantization: Quantization | None) -> dict[str, Any]:
    total = sum(shard.num_bytes for shard in shards)
    metadata: dict[str, Any] = {"format": _FORMAT, "version": 1, "dtype": dtype, "total_size": total}
    if quantization is not None:
        metadata["quantization"] = quantization.to_json()
    return {
        "metadata": metadata,
        "weight_map": {name: shard.file_name for shard in shards for name in shard.names},
    }


def save_model(
    model: LynxModel,
    out: str | Path,
    *,
    tokenizer_folder: Path,
    dtype: str = "float32",
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """`save_folder` for a model in memory; its tensors are converted and written one by one."""
    state = model.state_dict()
    if any(name.endswith(".codes") for name in state):
        raise LynxError(f"{out}: a quantised model cannot be saved; `lynx-engine convert --quantize` writes one")
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wanted = DTYPES.get(dtype)
    tensors = ((name, tensor.detach().to("cpu", wanted)) for name, tensor in state.items())
    return save_folder(
        out, model.config, shapes, tensors, tokenizer_folder=tokenizer_folder, dtype=dtype, settings=settings
    )


def load_folder(folder: str | Path, dtype: torch.dtype | None = None) -> LynxModel:
    """The model of a folder written by `save_folder`, its parameters memory-mapped.

    Numbers are read from disk when they are first used. `dtype` other than the stored one converts tensor by tensor.
    Raises one LynxError for a folder of another kind, a missing or damaged shard, and tensors that do not fit.
    """
    path = Path(folder)
    config, index = read_config(path), read_index(path)
    files = [TensorFile(file) for file in indexed_files(path / INDEX)]
    found = [(name, file) for file in files for name in file.shapes]
    quantization = read_quantization(path)
    tensors = {name: file.tensor(name, codes=name.endswith(".codes")) for name, file in found}
    if len(tensors) < len(found):
        names = [name for name, _ in found]
        raise_misfits(str(path), [f"{name} is in two shards" for name in tensors if names.count(name) > 1])
    stored = DTYPES[index["metadata"]["dtype"]]
    model = meta_model(config) if quantization is None else quantization.hold(meta_model(config))
    return load_tensors_into(model, tensors, dtype=dtype or stored, where=str(path))


def read_quantization(folder: str | Path) -> Quantization | None:
    """How a model folder's linears are quantised; None where they are not."""
    path = Path(folder)
    return Quantization.from_json(read_index(path)["metadata"].get("quantization"), str(path / INDEX))


def read_stored_dtype(folder: str | Path) -> str:
    """The dtype of a model folder's tensors that are not quantised."""
    dtype: str = read_index(Path(folder))["metadata"]["dtype"]
    return dtype


def read_config(folder: str | Path) -> LynxConfig:
    """config.json of a model folder."""
    path = Path(folder)
    if not path.is_dir():
        raise LynxError(f"{path}: no such folder; wanted a model folder as `lynx-engine convert` writes it")
    read_index(path)
    return LynxConfig.from_json(path / "config.json")


def read_settings_of(folder: str | Path) -> dict[str, Any]:
    """The authors' settings stored with a model; empty where there are none."""
    path = Path(folder) / "settings.json"
    return read_json(path) if path.is_file() else {}


def read_index(folder: Path) -> dict[str, Any]:
    """The index json, checked to be of this format."""
    stranger = f"{folder}: not a model folder as `lynx-engine convert` writes it"
    if not (folder / INDEX).is_file():
        raise LynxError(f"{stranger}: lacks {INDEX}")
    index = read_json(folder / INDEX)
    metadata = index.get("metadata")
    if not isinstance(metadata, dict) or metadata.get("format") != _FORMAT:
        raise LynxError(f"{stranger}: {INDEX} is of another program")
    if metadata.get("version") != 1 or metadata.get("dtype") not in DTYPES:
        got = f"version {metadata.get('version')!r}, dtype {metadata.get('dtype')!r}"
        raise LynxError(f"{folder / INDEX}: wanted version 1 and dtype {' or '.join(DTYPES)}, got {got}")
    return index


def _existing_files(out: Path) -> list[str]:
    """Names in `out` that a new model replaces; LynxError if anything there is not ours."""
    if out.exists() and not out.is_dir():
        raise LynxError(f"{out}: is a file; wanted a folder to write to")
    names = sorted(path.name for path in out.iterdir() if not _is_leftover(path.name)) if out.exists() else []
    if not names:
        return []
    try:
        read_index(out)
    except LynxError as error:
        raise LynxError(f"{out}: is not empty and holds no lynx_engine model; nothing was written") from error
    foreign = [name for name in names if not _is_ours(name)]
    if foreign:
        raise LynxError(f"{out}: holds {', '.join(foreign)} beside a model; nothing was written")
    return names


def _is_ours(name: str) -> bool:
    return name in ("config.json", "settings.json", INDEX, *_TOKENIZER_FILES) or _SHARD.fullmatch(name) is not None


def _is_leftover(name: str) -> bool:
    """Whether `name` is an unfinished file of `save_folder`."""
    return name.endswith(_PARTIAL) and _is_ours(name.removesuffix(_PARTIAL))


def _publish(out: Path, names: list[str], before: list[str]) -> None:
    """Rename the finished files into place; between the first step and the last the folder has no index."""
    for name in [INDEX, *before]:
        if name == INDEX or name not in names:
            (out / name).unlink(missing_ok=True)
    for name in names:
        os.replace(out / (name + _PARTIAL), out / name)
    descriptor = os.open(out, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(out: Path, created: bool) -> None:
    """Drop unfinished files of this or a killed run, and the folder if this run `created` it in vain."""
    if out.is_dir():
        for path in out.iterdir():
            if _is_leftover(path.name):
                path.unlink()
        if created and not any(out.iterdir()):
            out.rmdir()


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, default=str) + "\n").encode()
