"""The authors' three files to the engine's own folder, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import LynxConfig
from ..errors import LynxError
from .folder import save_folder
from .quantized import Quantization
from .release import LoadReport, load_release
from .settings import Settings
from .shards import DTYPES, Progress


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote and what it had to decide."""

    folder: Path
    config: LynxConfig
    report: LoadReport


def convert(
    *,
    vision: str | Path,
    llm: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    config: str | Path | Mapping[str, Any] | Settings | None = None,
    overrides: Sequence[str] = (),
    dtype: str = "float32",
    quantization: Quantization | None = None,
    release_compat: bool = False,
    max_shard_bytes: int = 2**30,
    progress: Progress | None = None,
) -> Conversion:
    """Write the release as a folder that loads memory-mapped; `load_release` and `save_folder` say what they refuse."""
    if dtype not in DTYPES:
        raise LynxError(f"dtype: wanted one of {', '.join(DTYPES)}, got {dtype!r}")
    release = load_release(vision, llm, checkpoint, config=config, overrides=overrides, release_compat=release_compat)
    folder = save_folder(
        out,
        release.config,
        release.shapes,
        release.tensors(DTYPES[dtype]),
        tokenizer_folder=release.tokenizer_folder,
        dtype=dtype,
        quantization=quantization,
        settings=release.settings.values,
        max_shard_bytes=max_shard_bytes,
        progress=progress,
    )
    return Conversion(folder, release.config, release.report)
