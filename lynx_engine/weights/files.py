"""Tensor files opened lazily: names and shapes first, the numbers when they are asked for."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import LynxError

_WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class TensorFile:
    """A `.safetensors` file or a pickle written by torch.save, memory-mapped where its format allows.

    `shapes` are those of its tensors; `others` the names of everything else in it.

    Pickles go through `torch.load(weights_only=True)` only. `wrapper` names the key under which a pickle may keep its
    tensors (`{"model": {...}}`). `close` lets go of the mapping; a later `tensor` opens it again.
    """

    def __init__(self, path: Path, wrapper: str | None = None) -> None:
        if not path.is_file():
            raise LynxError(f"{path}: no such file")
        self.path = path
        self._wrapper = wrapper
        self._open: Callable[[], Mapping[str, Any]] = (
            self._open_safetensors if path.suffix == ".safetensors" else self._open_pickle
        )
        self._content: Mapping[str, Any] | None = None
        content = self._opened()
        self.shapes = {name: tuple(value.shape) for name, value in content.items() if _is_named_tensor(name, value)}
        self.others = [str(name) for name in content if name not in self.shapes]
        self.close()

    def tensor(self, name: str, *, codes: bool = False) -> Tensor:
        """The tensor in its stored dtype; it may share the file's mapping. LynxError unless it is dense and real.

        codes: what is wanted are bytes.
        """
        value = self._opened()[name]
        tensor: Tensor = value.read() if isinstance(value, _Stored) else value
        if codes and tensor.dtype == torch.uint8:
            return tensor
        if tensor.layout != torch.strided or tensor.dtype not in _WEIGHT_DTYPES:
            kind = f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
            raise LynxError(f"{self.path}: {name}: wanted float64, float32, float16 or bfloat16 numbers, got {kind}")
        return tensor

    def close(self) -> None:
        self._content = None

    def _opened(self) -> Mapping[str, Any]:
        if self._content is None:
            self._content = self._open()
        return self._content

    def _open_safetensors(self) -> Mapping[str, Any]:
        try:
            handle: Any = safe_open(str(self.path), framework="pt")
            names: list[str] = handle.keys()
            return {name: _Stored(handle, name, tuple(handle.get_slice(name).get_shape())) for name in names}
        except (SafetensorError, OSError) as error:
            raise LynxError(f"{self.path}: not a readable safetensors file: {error}") from error

    def _open_pickle(self) -> Mapping[str, Any]:
        mapped = zipfile.is_zipfile(self.path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of pickle protocols that it then reads or refuses
                content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            raise LynxError(f"{self.path}: {_refusal(error)}") from error
        except OSError as error:
            raise LynxError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        except Exception as error:  # torch.load raises nearly anything on damaged bytes
            reason = str(error).partition("\n")[0]
            raise LynxError(f"{self.path}: damaged, or not a file of torch.save: {reason}") from error
        if isinstance(content, Mapping) and self._wrapper and isinstance(content.get(self._wrapper), Mapping):
            content = content[self._wrapper]
        if not isinstance(content, Mapping):
            raise LynxError(f"{self.path}: wanted a dict of tensors, got {type(content).__name__}")
        return content


@dataclass(frozen=True)
class _Stored:
    """A tensor of an open safetensors file."""

    handle: Any
    name: str
    shape: tuple[int, ...]

    def read(self) -> Tensor:
        tensor: Tensor = self.handle.get_tensor(self.name)
        return tensor


def num_layers(names: Iterable[str], prefix: str) -> int:
    """How many layers `prefix`0, `prefix`1, ... without a gap the names have."""
    found = {int(match[1]) for name in names if (match := re.match(re.escape(prefix) + r"(\d{1,6})\.", name))}
    return next(n for n in range(len(found) + 1) if n not in found)


def _is_named_tensor(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, _Stored | Tensor)


def _refusal(error: pickle.UnpicklingError) -> str:
    """One line on why the restricted unpickler stopped."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    if found:
        return f"refused, since the pickle wants to call {found[1]}; only tensors and plain values are read"
    return "damaged, or a pickle that holds more than tensors and plain values; refused"


@dataclass(frozen=True)
class Source:
    """One tensor of the model to be: its shape now, its numbers from `file` when `read` is called.

    `origin` says "file: stored name" in messages; `file` None is a tensor that no file holds.
    """

    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    file: TensorFile | None = None
    origin: str = "initial value"

    @classmethod
    def of(cls, file: TensorFile, name: str) -> Source:
        return cls(file.shapes[name], lambda: file.tensor(name), file, f"{file.path.name}: {name}")

    def changed(self, shape: tuple[int, ...], change: Callable[[Tensor], Tensor]) -> Source:
        """A source whose tensor is `change` of this one's, of shape `shape`."""
        return replace(self, shape=shape, read=lambda: change(self.read()))
