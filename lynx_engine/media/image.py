"""Images from files, bytes and arrays, and the preprocessing of the authors' evaluation, bit for bit."""

from __future__ import annotations

import functools
import io
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import LynxError
from .strip import upscale_strip

FileSource: TypeAlias = "str | os.PathLike[str] | bytes"
ImageSource: TypeAlias = "FileSource | Image.Image | npt.NDArray[np.uint8]"

MAX_IMAGE_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: 256 MiB of RGB
# Formats that Pillow decodes itself; EPS, for one, would start Ghostscript on a stranger's file.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "MPO", "PCX", "QOI", "TGA")
ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF")
_WARNINGS_LOCK = threading.Lock()
_MAX_RESIZED_PIXELS = 1 << 24  # beyond it (64 MiB in Pillow) only the middle of an enlarged image is computed


class UnknownFormatError(LynxError):
    """A file that Pillow does not take for an image; it may still be a video."""


def load_image(source: ImageSource, *, release_compat: bool = False, name: str = "image") -> Image.Image:
    """An RGB image from a path, the bytes of a file, a PIL image or a uint8 array [H, W, 3].

    Transparency is dropped, not composited; of an animation the first frame is taken. EXIF orientation is applied and
    16-bit grey is scaled to 8 bits, except with release_compat=True, which is the authors' `convert("RGB")`.
    Raises LynxError, naming the path or `name`, for whatever is not an image, is damaged, or has more than
    MAX_IMAGE_PIXELS pixels.
    """
    if isinstance(source, np.ndarray):
        source, release_compat = _from_array(source, name), True
    if isinstance(source, Image.Image):
        with readable(name):
            return to_rgb(source, name, release_compat)
    name = source_name(source, name)
    with open_image(source, name) as image, readable(name):
        return to_rgb(image, name, release_compat)


def source_name(source: object, name: str) -> str:
    """What errors call `source`: its path, or `name` for bytes. Raises LynxError for anything else."""
    if isinstance(source, bytes):
        return name
    if not isinstance(source, (str, os.PathLike)):
        raise LynxError(f"{name}: wanted a path or the bytes of a file, got {type(source).__name__}")
    return os.fsdecode(source)


@contextmanager
def open_image(source: FileSource, name: str) -> Iterator[Image.Image]:
    """The image of a path or of a file's bytes; its header is read and its size checked, its pixels are not decoded."""
    if isinstance(source, bytes):
        if not source:
            raise LynxError(f"{name}: is empty, wanted an image")
        file: Any = io.BytesIO(source)
    else:
        file = check_file(source, "an image")
    with readable(name), _pillow_warnings():
        image = Image.open(file, formats=_available_formats())
    with image:
        yield image


def check_file(path: str | os.PathLike[str], wanted: str) -> str:
    """`path` if it is a file with something in it, else a LynxError that says what it is."""
    path = os.fsdecode(path)
    shown = path if len(path) <= 200 else path[:200] + "..."
    if os.path.isdir(path):
        raise LynxError(f"{shown}: is a directory, wanted {wanted}")
    if not os.path.exists(path):
        raise LynxError(f"{shown}: no such file, wanted {wanted}")
    if not os.path.isfile(path):
        raise LynxError(f"{shown}: is not a regular file, wanted {wanted}")
    if os.path.getsize(path) == 0:
        raise LynxError(f"{shown}: is empty, wanted {wanted}")
    return path


def is_animation(image: Image.Image) -> bool:
    """Whether an opened image has several frames that are shown one after another."""
    return image.format in ANIMATED_FORMATS and bool(getattr(image, "is_animated", False))


def to_rgb(image: Image.Image, name: str, release_compat: bool = False) -> Image.Image:
    """Decode an opened image's current frame to RGB; `load_image` says how."""
    check_pixels(image.width, image.height, name)
    image.load()
    if release_compat:
        return image.convert("RGB")
    return _upright(_to_8_bits(image, name)).convert("RGB")


def check_pixels(width: int, height: int, name: str) -> None:
    """Raise a LynxError for an image or frame without pixels or with more than MAX_IMAGE_PIXELS."""
    if width < 1 or height < 1:
        raise LynxError(f"{name}: has no pixels ({width} x {height})")
    if width * height > MAX_IMAGE_PIXELS:
        raise LynxError(f"{name}: {width} x {height} pixels are over the limit of {MAX_IMAGE_PIXELS} pixels")


def resized_size(width: int, height: int, size: int) -> tuple[int, int]:
    """(width, height) after the shorter side is scaled to `size`; the longer one is truncated."""
    long = int(size * max(width, height) / min(width, height))
    return (size, long) if width <= height else (long, size)


def crop_offset(length: int, size: int) -> int:
    """First pixel of a centre crop: half of the excess, rounded half to even (1 -> 0, 3 -> 2, 5 -> 2)."""
    return round((length - size) / 2.0)


def resize_crop(image: Image.Image, size: int) -> torch.Tensor:
    """uint8 [size, size, 3]: shorter side to `size` by Pillow's antialiased bicubic, centre crop."""
    image = image if image.mode == "RGB" else image.convert("RGB")
    width, height = resized_size(*image.size, size)
    left, top = crop_offset(width, size), crop_offset(height, size)
    if min(image.size) < size and width * height > _MAX_RESIZED_PIXELS:
        return torch.from_numpy(upscale_strip(image, size, max(width, height), max(left, top)))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized.crop((left, top, left + size, top + size))))


def preprocess(image: Image.Image, size: int, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """float32 [3, size, size]: (resize_crop / 255 - mean) / std (REFERENCE.md section 9.1)."""
    pixels = resize_crop(image, size).permute(2, 0, 1).contiguous().to(torch.float32).div_(255)
    channel_mean, channel_std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (mean, std))
    return pixels.sub_(channel_mean).div_(channel_std)


def _upright(image: Image.Image) -> Image.Image:
    try:
        with _pillow_warnings():
            return ImageOps.exif_transpose(image)
    except (ValueError, TypeError, KeyError, SyntaxError, OSError, OverflowError):
        return image  # Cameras write unreadable EXIF blocks; the picture itself is whole.


def _to_8_bits(image: Image.Image, name: str) -> Image.Image:
    """16-bit grey by its high byte, as Pillow reads 16-bit colour; `convert` would clip it to white."""
    if image.mode == "F":
        raise LynxError(f"{name}: floating-point pixels have no defined brightness, wanted 8 or 16 bits a channel")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise LynxError(f"{name}: grey values from {low} to {high}, wanted 8 or 16 bits a channel")
    is_wide = image.mode != "I" or high > 255
    grey = Image.fromarray((values >> 8 if is_wide else values).astype(np.uint8))
    grey.info = image.info
    return grey


def _from_array(array: npt.NDArray[Any], name: str) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise LynxError(f"{name}: wanted a uint8 array [H, W, 3], got {array.dtype} {list(array.shape)}")
    check_pixels(array.shape[1], array.shape[0], name)
    return Image.fromarray(np.ascontiguousarray(array))


@functools.cache
def _available_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def _pillow_warnings() -> Iterator[None]:
    """Raise Pillow's warning of a decompression bomb; drop its remarks on metadata."""
    with _WARNINGS_LOCK, warnings.catch_warnings():  # the filters are the whole process's
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn what Pillow raises on damaged or hostile files into a LynxError; its plugins raise a dozen types."""
    try:
        yield
    except LynxError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise LynxError(f"{name}: is over the limit of {MAX_IMAGE_PIXELS} pixels ({error})") from error
    except UnidentifiedImageError as error:
        raise UnknownFormatError(f"{name}: is not an image (readable: {', '.join(_available_formats())})") from error
    except PermissionError as error:
        raise LynxError(f"{name}: may not be read: {error.strerror}") from error
    except Exception as error:
        raise LynxError(f"{name}: image is truncated or damaged ({error or type(error).__name__})") from error
