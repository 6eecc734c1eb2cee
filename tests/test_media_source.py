"""Values of the evaluation format: paths, base64, JSON files, lists of frames."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lynx_engine.errors import LynxError
from lynx_engine.media import load_vision


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (level,) * 3).save(file, "PNG")
    return file.getvalue()


def text(level: int) -> str:
    return base64.b64encode(png(level)).decode()


def levels(vision: Any) -> Any:
    return [levels(frame) for frame in vision] if isinstance(vision, list) else vision.getpixel((0, 0))[0]


@pytest.mark.parametrize("release_compat", [False, True])
def test_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release_compat: bool) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(png(7))
    Path("one.json").write_text(json.dumps(text(8)))
    Path("many.json").write_text(json.dumps([text(i) for i in range(3)]))
    for value, expected in [
        ("a.png", 7), (str(tmp_path / "a.png"), 7), (text(9), 9), ("one.json", 8), ("many.json", [0, 1, 2]),
        ([text(5), text(6), "a.png"], [5, 6, 7]), (text(9)[:30] + "\n " + text(9)[30:], 9),
    ]:  # fmt: skip
        assert levels(load_vision(value, num_frames=3, release_compat=release_compat)) == expected


def test_longer_and_shorter_lists() -> None:
    frames = [text(i) for i in range(17)]
    assert levels(load_vision(frames, num_frames=5)) == [0, 4, 8, 11, 14]
    assert levels(load_vision(frames[:2], num_frames=5)) == [0, 0, 0, 1, 1]
    np.random.seed(0)
    assert levels(load_vision(frames, num_frames=5, release_compat=True)) == [1, 6, 8, 13, 14]
    rng = np.random.RandomState(42)
    assert levels(load_vision(frames, num_frames=5, release_compat=True, rng=rng)) == [3, 4, 7, 12, 15]


def test_frames_that_are_not_chosen_are_not_decoded() -> None:
    assert levels(load_vision([text(1), "garbage", text(3), "garbage"], num_frames=2)) == [1, 3]


def test_root_of_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(7))
    assert levels(load_vision("a.png", num_frames=3, root=tmp_path / "images")) == 7
    assert levels(load_vision(["a.png"] * 3, num_frames=3, root=tmp_path / "images")) == [7, 7, 7]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LynxError, match=r"no such file 'a\.png'"):
        load_vision("a.png", num_frames=3, root=tmp_path / "images", release_compat=True)
    assert levels(load_vision("images/a.png", num_frames=3, root=tmp_path / "other", release_compat=True)) == 7


def test_data_url() -> None:
    assert levels(load_vision("data:image/png;base64," + text(4), num_frames=None)) == 4


def test_values_of_the_fixture(fixtures_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fixtures_dir / "T4")
    for line in Path("images.jsonl").read_text().splitlines():
        assert isinstance(load_vision(json.loads(line)["image"], num_frames=5, release_compat=True), Image.Image)
    for line in Path("videos.jsonl").read_text().splitlines():
        frames = load_vision(json.loads(line)["video"], num_frames=5, release_compat=True)
        assert isinstance(frames, list) and len(frames) == 5


@pytest.mark.parametrize("value", [None, 3, True, {"path": "a.png"}, 2.5])
def test_values_of_the_wrong_type(value: Any) -> None:
    with pytest.raises(LynxError, match=r"^picture: wanted a path, base64 text or a list of frames, got"):
        load_vision(value, num_frames=5, name="picture")


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], r"^video: is an empty list"), ([None], r"^video\[0\]: wanted base64 text, got NoneType"),
        ([["nested"]], r"^video\[0\]: wanted base64 text, got list"), (["%%%"], r"^video\[0\]: .* is not base64"),
        ([base64.b64encode(b"no image" * 99).decode()], r"^video\[0\]: is not an image"),
        ([base64.b64encode(png(3)[:50]).decode()], r"^video\[0\]: no such file .* truncated or damaged"),
    ],
)  # fmt: skip
def test_broken_lists(tmp_path: Path, frames: list[Any], message: str) -> None:
    with pytest.raises(LynxError, match=message):
        load_vision(frames, num_frames=1, name="video")
    path = tmp_path / "frames.json"
    path.write_text(json.dumps(frames))
    with pytest.raises(LynxError, match=message.replace("^video", rf"^{path}")):
        load_vision(str(path), num_frames=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"), (b"{", "cannot be read as JSON"), (b"[" * 200_000, "cannot be read as JSON"),
        (b"\xff\xfe\xfa", "cannot be read as JSON"), (b"{}", "wanted base64 text, got dict"),
        (b"null", "wanted base64 text, got NoneType"), (b"3", "wanted base64 text, got int"), (b'""', "is empty"),
    ],
)  # fmt: skip
def test_broken_json_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "frames.json"
    path.write_bytes(content)
    with pytest.raises(LynxError, match=rf"frames\.json: .*{message}"):
        load_vision(str(path), num_frames=5)


@pytest.mark.parametrize("value", ["photos/missing.png", "abcd", "", "é", "a\0b", "x" * 5000, "data:image/png;base64,"])
@pytest.mark.parametrize("release_compat", [False, True])
def test_texts_that_are_neither_path_nor_image(value: str, release_compat: bool) -> None:
    with pytest.raises(LynxError, match=r"^image: "):
        load_vision(value, num_frames=5, release_compat=release_compat)


def test_directories_and_clips_for_a_model_of_images(tmp_path: Path) -> None:
    with pytest.raises(LynxError, match="is a directory, wanted an image"):
        load_vision(str(tmp_path), num_frames=5)
    with pytest.raises(LynxError, match=r"^video: is a list of frames, but the model takes single images only"):
        load_vision([text(1)], num_frames=None, name="video")
