"""From what a person or an evaluation file names to images: paths, base64, JSON, lists (REFERENCE.md section 9.2)."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from ..errors import LynxError
from .frames import sample_frame_ids
from .image import (
    FileSource,
    UnknownFormatError,
    check_file,
    is_animation,
    load_image,
    open_image,
    readable,
    source_name,
    to_rgb,
)
from .video import decode_video

Vision: TypeAlias = "Image.Image | list[Image.Image]"
_DATA_URL = re.compile(r"data:[\w/+.-]*;base64,")
_LONGEST_SHOWN = 200  # characters; a longer text that is no path is meant as base64


def load_vision(
    value: Any,
    *,
    num_frames: int | None,
    root: str | os.PathLike[str] | None = None,
    release_compat: bool = False,
    rng: np.random.RandomState | None = None,
    name: str = "image",
) -> Vision:
    """An image, or a clip as a list of `num_frames` images, from a value of the evaluation format.

    `value`: a list of frames (base64 text or paths); or the path of an image, a video, or a .json file with one base64
    text or a list of them; or base64 text. Relative paths start at `root`, None: at the current directory.
    `num_frames` None: the model takes single images only.
    release_compat=True does what the authors' code does: `root` is unused, video files are not read, EXIF orientation
    is ignored, and of a list of frames random ones are taken, drawn from `rng`, None: from NumPy's global state (with
    exactly `num_frames` in the list nothing depends on it).
    Raises LynxError that begins with the path, or with `name`, the value's field.
    """
    return _Loader(num_frames, root, release_compat, rng).load(value, name)


def load_file(source: FileSource, num_frames: int | None, *, name: str = "file") -> Vision:
    """An image or a clip of `num_frames` images from a file; its content tells which of the two.

    An animation is a clip. For a model of single images (`num_frames` None) its first frame is taken, and a video is
    refused. Raises LynxError naming the file.
    """
    name = source_name(source, name)
    try:
        with open_image(source, name) as image, readable(name):
            if num_frames is None or not is_animation(image):
                return to_rgb(image, name)
    except UnknownFormatError:
        if num_frames is None:
            raise
    assert num_frames is not None
    return load_video(source, num_frames, name=name)


def load_video(
    source: FileSource,
    num_frames: int,
    *,
    training: bool = False,
    rng: np.random.RandomState | None = None,
    name: str = "video",
) -> list[Image.Image]:
    """`num_frames` RGB frames, chosen by `sample_frame_ids`, of a video or an animation; an image is a clip of one.

    Videos need PyAV, the extra `[video]`. Raises LynxError naming the file.
    """
    name = source_name(source, name)
    try:
        with open_image(source, name) as image, readable(name):
            count = getattr(image, "n_frames", 1) if is_animation(image) else 1
            ids = sample_frame_ids(count, num_frames, training, rng)
            frames = {i: _animation_frame(image, i, name) for i in sorted(set(ids))}
            return [frames[i] for i in ids]
    except UnknownFormatError:
        return decode_video(source, num_frames, training=training, rng=rng, name=name)


@dataclass(frozen=True)
class _Loader:
    """The arguments of `load_vision`, which every step needs."""

    num_frames: int | None
    root: str | os.PathLike[str] | None
    release_compat: bool
    rng: np.random.RandomState | None

    def load(self, value: Any, name: str) -> Vision:
        if isinstance(value, (list, tuple)):
            return self._clip(value, self._path_or_base64, name)
        if not isinstance(value, (str, os.PathLike)):
            raise LynxError(f"{name}: wanted a path, base64 text or a list of frames, got {type(value).__name__}")
        path = self._existing_path(os.fsdecode(value))
        if path is None:
            return self._base64(os.fsdecode(value), name)
        if path.endswith(".json"):
            content = _read_json(path)
            return self._clip(content, self._base64, path) if isinstance(content, list) else self._base64(content, path)
        return load_image(path, release_compat=True) if self.release_compat else load_file(path, self.num_frames)

    def _clip(self, frames: Sequence[Any], load: Callable[[Any, str], Image.Image], name: str) -> list[Image.Image]:
        """The sampled frames; each is decoded once, the others not at all."""
        if self.num_frames is None:
            raise LynxError(f"{name}: is a list of frames, but the model takes single images only")
        if not frames:
            raise LynxError(f"{name}: is an empty list, wanted frames")
        ids = sample_frame_ids(len(frames), self.num_frames, training=self.release_compat, rng=self.rng)
        loaded = {i: load(frames[i], f"{name}[{i}]") for i in sorted(set(ids))}
        return [loaded[i] for i in ids]

    def _path_or_base64(self, value: Any, name: str) -> Image.Image:
        path = self._existing_path(os.fsdecode(value)) if isinstance(value, (str, os.PathLike)) else None
        if path is None:
            return self._base64(value, name)
        return load_image(path, release_compat=self.release_compat)

    def _existing_path(self, value: str) -> str | None:
        path = value if self.root is None or self.release_compat else os.path.join(self.root, value)
        return path if os.path.exists(path) else None

    def _base64(self, value: Any, name: str) -> Image.Image:
        if not isinstance(value, str):
            raise LynxError(f"{name}: wanted base64 text, got {type(value).__name__}")
        if len(value) <= _LONGEST_SHOWN:
            name = f"{name}: no such file {value!r}, and as base64"
        # The authors' decoder skips characters that are not base64; ours skips white space only.
        text = value if self.release_compat else "".join(_DATA_URL.sub("", value, count=1).split())
        try:
            data = base64.b64decode(text, validate=not self.release_compat)
        except ValueError as error:
            raise LynxError(f"{name}: is not base64 ({error})") from error
        return load_image(data, release_compat=self.release_compat, name=name)


def _animation_frame(image: Image.Image, index: int, name: str) -> Image.Image:
    if index:
        image.seek(index)
    return to_rgb(image, name)


def _read_json(path: str) -> Any:
    check_file(path, "JSON")
    try:
        with open(path, "rb") as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise LynxError(f"{path}: cannot be read as JSON: {error}") from error
