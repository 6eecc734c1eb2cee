"""Video files: the right frames, upright, from every container; damaged ones give one error."""

from __future__ import annotations

import io
import struct
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lynx_engine.errors import LynxError
from lynx_engine.media import load_file, load_image, load_video, sample_frame_ids, video

av = pytest.importorskip("av")
BITS = 8


def write_video(
    path: Path, count: int, codec: str = "mpeg4", size: tuple[int, int] = (64, 48), picture: Any = None, **options: str
) -> Path:
    """A clip whose frame i shows its number, or the given picture."""
    container_options = {key: options.pop(key) for key in ("movflags",) if key in options}
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=Fraction(10), options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for i in range(count):
            pixels = numbered(i, size) if picture is None else picture
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def numbered(number: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """A picture of vertical bars: the bits of its number, black and white."""
    bits = (number >> np.arange(BITS)) & 1
    row = np.repeat(bits.astype(np.uint8) * 255, size[0] // BITS)
    return np.broadcast_to(row[None, :, None], (size[1], size[0], 3)).copy()


def numbers(frames: list[Image.Image]) -> list[int]:
    bars = [np.asarray(frame).reshape(frame.height, BITS, -1).mean(axis=(0, 2)) > 127 for frame in frames]
    return [int((bar << np.arange(BITS)).sum()) for bar in bars]


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mp4", "mpeg4"), (".mp4", "libx264"), (".webm", "libvpx-vp9"), (".webm", "libvpx"), (".avi", "mpeg4"),
     (".mkv", "libx264"), (".h264", "libx264"), (".mov", "libx264")],
)  # fmt: skip
@pytest.mark.parametrize("count", [1, 3, 5, 43])
def test_frames_of_every_container(tmp_path: Path, suffix: str, codec: str, count: int) -> None:
    path = write_video(tmp_path / f"clip{suffix}", count, codec)
    expected = sample_frame_ids(count, 5)
    assert numbers(load_video(path, 5)) == expected
    assert numbers(load_video(path.read_bytes(), 5)) == expected
    clip = load_file(path, 5)
    assert isinstance(clip, list) and numbers(clip) == expected


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_jumping_to_keyframes_gives_the_pixels_of_decoding_everything(tmp_path: Path, codec: str) -> None:
    path = write_video(tmp_path / "clip.mp4", 60, codec, g="7")
    with av.open(str(path)) as container:
        every = [np.asarray(frame.to_image()) for frame in container.decode(video=0)]
    for wanted in (1, 5, 11, 60, 64):
        for frame, i in zip(load_video(path, wanted), sample_frame_ids(60, wanted), strict=True):
            np.testing.assert_array_equal(np.asarray(frame), every[i])


def test_only_part_of_a_long_video_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "clip.mp4", 60, g="5")
    decoded: list[int] = []
    find = video._decode_at

    class Watched:
        """The container, noting what comes out of its decoder."""

        def __init__(self, container: Any) -> None:
            self._container = container

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def decode(self, stream: Any) -> Any:
            for frame in self._container.decode(stream):
                decoded.append(frame.pts)
                yield frame

    monkeypatch.setattr(video, "_decode_at", lambda container, *rest: find(Watched(container), *rest))
    assert numbers(load_video(path, 3)) == [0, 20, 40]
    assert len(decoded) <= 9


def test_training_draws_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", 17)
    frames = load_video(path, 5, training=True, rng=np.random.RandomState(0))
    assert numbers(frames) == [1, 6, 8, 13, 14]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animations_need_no_video_library(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    frames = [Image.fromarray(numbered(i)) for i in range(12)]
    path = tmp_path / f"clip{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == ".webp" else {}))
    assert numbers(load_video(path, 5)) == [0, 3, 6, 8, 10]
    clip = load_file(path, 5)
    assert isinstance(clip, list) and numbers(clip) == [0, 3, 6, 8, 10]
    first = load_file(path, None)
    assert isinstance(first, Image.Image) and numbers([first]) == [0]


def test_a_still_image_is_a_clip_of_one() -> None:
    file = io.BytesIO()
    Image.fromarray(numbered(3)).save(file, "PNG")
    assert numbers(load_video(file.getvalue(), 3)) == [3, 3, 3]
    assert isinstance(load_file(file.getvalue(), 3), Image.Image)


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, 1, -1, 0), lambda a: np.rot90(a, -1)), ((-1, 0, 0, -1), lambda a: np.rot90(a, 2)),
        ((0, -1, 1, 0), lambda a: np.rot90(a, 1)), ((-1, 0, 0, 1), lambda a: a[:, ::-1]),
        ((1, 0, 0, -1), lambda a: a[::-1]), ((0, 1, 1, 0), lambda a: a.swapaxes(0, 1)),
        ((1, 0, 0, 1), lambda a: a),
    ],
)  # fmt: skip
def test_recording_orientation(tmp_path: Path, matrix: tuple[int, int, int, int], turn: Any) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32, 0] = picture[24:, :32, 1] = picture[:24, 32:, 2] = 250
    path = write_video(tmp_path / "clip.mp4", 2, picture=picture)
    plain = np.asarray(load_video(path, 1)[0])
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 4 + 20 + 16  # version and flags, times and ids, layer and volume
    a, b, c, d = (value << 16 for value in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    np.testing.assert_array_equal(np.asarray(load_video(bytes(content), 1)[0]), turn(plain))


def test_missing_video_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "clip.mp4", 2)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(LynxError, match=r"clip\.mp4: .*needs PyAV: pip install 'lynx-engine\[video\]'"):
        load_video(path, 5)


def test_video_for_a_model_of_images(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", 2)
    with pytest.raises(LynxError, match=r"clip\.mp4: is not an image"):
        load_file(path, None)
    with pytest.raises(LynxError, match=r"clip\.mp4: is not an image"):
        load_image(path)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("a.mp4", "mpeg4", {}), ("fast.mp4", "mpeg4", {"movflags": "+faststart"}), ("a.webm", "libvpx-vp9", {}),
     ("a.avi", "mjpeg", {"strict": "unofficial"}), ("a.mkv", "mpeg4", {})],
)  # fmt: skip
def test_truncated_videos(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    content = write_video(tmp_path / name, 40, codec, **options).read_bytes()
    for share in (0.02, 0.3, 0.6, 0.85):
        path = tmp_path / f"part-{name}"
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(LynxError, match=f"part-{name}: .*(truncated|cannot|can be read)"):
            load_video(path, 5)


def test_files_that_are_not_videos(tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:10,\nhttp://localhost:1/a.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile noise.mp4\n")
    unreadable = "neither an image nor a video"
    for name, message in {
        "noise.mp4": unreadable, "list.m3u8": unreadable, "list.ffconcat": unreadable,
        "empty.mp4": "is empty", "missing.mp4": "no such file", ".": "is a directory",
    }.items():  # fmt: skip
        with pytest.raises(LynxError, match=message):
            load_video(tmp_path / name, 5)


def test_sound_without_pictures(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(LynxError, match="has no video in it that can be decoded"):
        load_video(path, 5)


def test_video_of_an_unknown_codec(tmp_path: Path) -> None:
    content = write_video(tmp_path / "clip.webm", 3, "libvpx-vp9").read_bytes()
    with pytest.raises(LynxError, match=r"^video: has no video in it that can be decoded"):
        load_video(content.replace(b"V_VP9", b"V_XX9"), 5)


def test_video_without_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "none.avi", 0)
    with pytest.raises(LynxError, match=r"none\.avi: "):
        load_video(path, 5)
