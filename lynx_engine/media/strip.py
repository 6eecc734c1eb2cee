"""Pillow's bicubic upscaling for the middle of a very long image, without the rest of the enlarged image.

A 1 x 1000 picture scaled to a width of 420 is 420 x 420,000 pixels, of which the crop keeps 420 rows. Pillow's own
`resize(box=...)` rounds the box to float32 and gave other pixels in 337 of 400 random cases, so the pass along the long
side is repeated here with Pillow's fixed-point arithmetic (src/libImaging/Resample.c); the short side is Pillow's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

_PRECISION_BITS = 22
_TAPS = 5


def upscale_strip(image: Image.Image, size: int, long_size: int, offset: int) -> npt.NDArray[np.uint8]:
    """uint8 [size, size, 3]: `image` (RGB) with its short side scaled to `size` and its long side to `long_size`, of
    which the pixels from `offset` on are kept. Only for enlarging: size > short side."""
    tall = image.height > image.width
    starts, weights = _bicubic_taps(max(image.size), long_size, offset, size)
    first, last = int(starts[0]), min(int(starts[-1]) + _TAPS, max(image.size))
    if tall:
        part = image.crop((0, first, image.width, last)).resize((size, last - first), Image.Resampling.BICUBIC)
        return _weighted_rows(np.asarray(part), starts - first, weights)
    part = image.crop((first, 0, last, image.height))
    columns = _weighted_rows(np.asarray(part).swapaxes(0, 1), starts - first, weights).swapaxes(0, 1)
    enlarged = Image.fromarray(np.ascontiguousarray(columns)).resize((size, size), Image.Resampling.BICUBIC)
    return np.array(enlarged)


def _bicubic_taps(
    length: int, out_length: int, offset: int, count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First source index [count] and fixed-point weights [count, 5] of output positions offset .. offset + count."""
    center = (np.arange(offset, offset + count) + 0.5) * (length / out_length)
    starts = np.maximum(np.trunc(center - 2.0 + 0.5), 0).astype(np.int64)
    ends = np.minimum(np.trunc(center + 2.0 + 0.5), length).astype(np.int64)
    taps = starts[:, None] + np.arange(_TAPS)
    x = np.abs(taps - center[:, None] + 0.5)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    weights = np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0)) * (taps < ends[:, None])
    weights /= weights.cumsum(axis=1)[:, -1:]
    fixed = np.trunc(weights * (1 << _PRECISION_BITS) + np.copysign(0.5, weights))
    return starts, fixed.astype(np.int64)


def _weighted_rows(
    pixels: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], weights: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """Row i of the result: sum_t weights[i, t] * pixels[starts[i] + t], rounded and clipped to uint8."""
    total = np.full((len(starts), *pixels.shape[1:]), 1 << (_PRECISION_BITS - 1), dtype=np.int64)
    for tap in range(_TAPS):
        rows = pixels[np.minimum(starts + tap, len(pixels) - 1)]
        total += weights[:, tap, None, None] * rows
    clipped: npt.NDArray[np.uint8] = np.clip(total >> _PRECISION_BITS, 0, 255).astype(np.uint8)
    return clipped
