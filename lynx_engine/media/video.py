"""Video files through PyAV: only the frames that are needed are kept, and mostly only those are decoded."""

from __future__ import annotations

import bisect
import io
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import LynxError
from .frames import sample_frame_ids
from .image import FileSource, check_file, check_pixels

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Containers that hold their own data; a playlist (HLS, concat, SDP) would open other files and addresses.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,asf,ogg,mpeg,mpegts,mpegvideo,h264,hevc,m4v,ivf,obu,mjpeg"
_Transpose = Image.Transpose
# Signs of the display matrix (a, b, c, d): x' = a x + c y, y' = b x + d y.
_ORIENTATIONS = {
    (0, 1, -1, 0): _Transpose.ROTATE_270,
    (-1, 0, 0, -1): _Transpose.ROTATE_180,
    (0, -1, 1, 0): _Transpose.ROTATE_90,
    (-1, 0, 0, 1): _Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): _Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): _Transpose.TRANSPOSE,
    (0, -1, -1, 0): _Transpose.TRANSVERSE,
}


@dataclass(frozen=True)
class _Index:
    """Times of a stream's frames in display order, and those at which decoding can start, in units of its time_base."""

    times: list[int]
    keys: list[int]


def decode_video(
    source: FileSource,
    num_frames: int,
    *,
    training: bool = False,
    rng: np.random.RandomState | None = None,
    name: str = "video",
) -> list[Image.Image]:
    """`num_frames` upright RGB frames of a video file, chosen by `sample_frame_ids` from all its frames.

    Packets are indexed without decoding, then the decoder jumps to the keyframe before each chosen frame. A stream
    whose packets do not tell its frames is decoded twice instead, once to count. Only chosen frames are held in memory.
    Raises LynxError for what is not a video, has no frames, is truncated or damaged, and where PyAV is not installed.
    """
    with _open(source, name) as (container, stream):
        index = _index_packets(container, stream, name)
    if index is not None and index.times:
        ids = sample_frame_ids(len(index.times), num_frames, training, rng)
        with _open(source, name) as (container, stream):
            found = _decode_at(container, stream, index, {index.times[i] for i in ids}, name)
        if found is not None:
            return [found[index.times[i]] for i in ids]
    with _open(source, name) as (container, stream):
        count = sum(1 for _ in container.decode(stream))
    if count == 0:
        raise LynxError(f"{name}: has no frames")
    ids = sample_frame_ids(count, num_frames, training, rng)
    with _open(source, name) as (container, stream):
        frames = _decode_numbered(container, stream, set(ids), name)
    return [frames[i] for i in ids]


@contextmanager
def _open(source: FileSource, name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    av = _import_av(name)
    if isinstance(source, bytes):
        file: Any = io.BytesIO(source)
    else:
        file = os.path.abspath(check_file(source, "a video"))
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        with av.open(file, options=options, metadata_errors="ignore") as container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None or stream.width == 0:
                raise LynxError(f"{name}: has no video in it that can be decoded, or is truncated")
            check_pixels(stream.width, stream.height, name)
            stream.thread_type = "AUTO"
            yield container, stream
    except (av.FFmpegError, EOFError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise LynxError(f"{name}: is neither an image nor a video that can be read ({reason})") from error


def _import_av(name: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise LynxError(
            f"{name}: is no image, and reading video needs PyAV: pip install 'lynx-engine[video]'"
        ) from error
    return av


def _index_packets(container: InputContainer, stream: VideoStream, name: str) -> _Index | None:
    """Read all packets, decode none; None where a packet is not one frame with a time of its own."""
    index = _Index([], [])
    num_packets = num_timed = 0
    end_seconds = 0.0
    for packet in container.demux():
        if packet.pts is not None and packet.time_base is not None:
            end_seconds = max(end_seconds, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream is not stream or packet.size == 0:
            continue
        if packet.is_corrupt:
            raise LynxError(f"{name}: video is truncated or damaged (packet {num_packets} is incomplete)")
        num_packets += 1
        if packet.pts is not None:
            num_timed += 1
            if not packet.is_discard:
                index.times.append(packet.pts)
                index.keys.extend([packet.pts] if packet.is_keyframe else [])
    _check_complete(container, stream, num_packets, end_seconds, name)
    index.times.sort()
    index.keys.sort()
    # VP8 alone has packets that decode to no frame.
    is_usable = num_timed == num_packets == len(set(index.times)) and stream.codec_context.name not in ("vp8", "libvpx")
    return index if is_usable else None


def _check_complete(
    container: InputContainer, stream: VideoStream, num_packets: int, end_seconds: float, name: str
) -> None:
    """Raise if clearly less is there than the header announces: an upload that broke off, not a rounding difference."""
    if num_packets < 0.9 * stream.frames:
        raise LynxError(f"{name}: video is truncated ({num_packets} of {stream.frames} frames are there)")
    # In other containers the duration is an estimate or that of an edit list.
    if container.format.name == "matroska,webm" and container.duration is not None:
        announced = container.duration / 1e6
        if end_seconds < 0.9 * announced:
            raise LynxError(f"{name}: video is truncated ({end_seconds:.1f} of {announced:.1f} seconds are there)")


def _decode_at(
    container: InputContainer, stream: VideoStream, index: _Index, wanted: set[int], name: str
) -> dict[int, Image.Image] | None:
    """The frames at the wanted times; None where the decoder does not deliver one of them at its time."""
    found: dict[int, Image.Image] = {}
    decoder = container.decode(stream)
    position = index.keys[0] if index.keys else 0
    for time in sorted(wanted):
        key = bisect.bisect_right(index.keys, time) - 1
        if key < 0:
            return None
        if index.keys[key] > position:
            container.seek(index.keys[key], stream=stream)
            decoder = container.decode(stream)
        for frame in decoder:
            if frame.pts is None or frame.pts > time:
                return None
            if frame.pts == time:
                found[time] = _to_image(frame, name)
                break
        position = time
    return found if len(found) == len(wanted) else None


def _decode_numbered(
    container: InputContainer, stream: VideoStream, wanted: set[int], name: str
) -> dict[int, Image.Image]:
    """The frames with the wanted numbers, by decoding from the beginning."""
    last = max(wanted)
    frames = itertools.islice(container.decode(stream), last + 1)
    return {i: _to_image(frame, name) for i, frame in enumerate(frames) if i in wanted}


def _to_image(frame: VideoFrame, name: str) -> Image.Image:
    """RGB, turned the way the recording device says."""
    check_pixels(frame.width, frame.height, name)
    image: Image.Image = frame.to_image()
    side_data: Any = frame.side_data
    matrix = next((data for data in side_data if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return image
    signs = np.sign(np.frombuffer(matrix, dtype=np.int32, count=9)[[0, 1, 3, 4]])
    method = _ORIENTATIONS.get(tuple(signs.tolist()))
    return image if method is None else image.transpose(method)
