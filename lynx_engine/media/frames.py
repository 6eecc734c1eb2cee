"""Which frames of a clip the model sees."""

from __future__ import annotations

import numpy as np

from ..errors import LynxError


def sample_frame_ids(
    num_frames: int, num_segments: int, training: bool = False, rng: np.random.RandomState | None = None
) -> list[int]:
    """Indices of `num_segments` frames of a clip of `num_frames`, ascending (REFERENCE.md section 9.3).

    training=False: the first frame of each of `num_segments` equal stretches, where the first stretches take the
    frames that are left over; a clip that is too short repeats its frames evenly.
    training=True: it is drawn which stretches are longer, then one frame in each; a clip that is too short repeats
    frames that are drawn. Draws come from `rng`, None: from NumPy's global state, as the authors' do. With
    num_frames == num_segments the result does not depend on them.
    Raises LynxError if either number is not positive.
    """
    if num_frames < 1 or num_segments < 1:
        raise LynxError(f"cannot take {num_segments} frames of {num_frames}: both numbers must be positive")
    draw = np.random if rng is None else rng
    if num_frames < num_segments:
        missing = num_segments - num_frames
        repeated = (
            draw.randint(num_frames, size=missing) if training else np.arange(num_frames, num_segments) % num_frames
        )
        return sorted([*range(num_frames), *map(int, repeated)])
    stride, longer = divmod(num_frames, num_segments)
    lengths = [stride + 1] * longer + [stride] * (num_segments - longer)
    if training:
        draw.shuffle(lengths)
    starts = np.cumsum([0, *lengths[:-1]])
    return [
        int(start) + (int(draw.randint(length)) if training else 0)
        for start, length in zip(starts, lengths, strict=True)
    ]
