"""Images: preprocessing bit for bit, odd modes and shapes, and files that are not what they should be."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from lynx_engine.config import CLIP_MEAN, CLIP_STD
from lynx_engine.errors import LynxError
from lynx_engine.media import MAX_IMAGE_PIXELS, load_image, preprocess, resize_crop
from lynx_engine.media.image import crop_offset, resized_size
from lynx_engine.media.strip import upscale_strip

DATA = Path(__file__).parent / "data" / "preprocess"
SHA256 = json.loads((DATA / "sha256.json").read_text())


def digest(image: Image.Image, size: int) -> str:
    return hashlib.sha256(preprocess(image, size, CLIP_MEAN, CLIP_STD).numpy().tobytes()).hexdigest()


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces its size and has next to nothing in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [56, 420])
@pytest.mark.parametrize("file", SHA256)
def test_preprocessing_is_bit_exact(file: str, size: int) -> None:
    assert digest(load_image(DATA / file, release_compat=True), size) == SHA256[file][str(size)]


def test_preprocessing_of_the_fixture(fixtures_dir: Path) -> None:
    folder = fixtures_dir / "preprocess"
    recorded = load_file(folder / "images.safetensors")
    for case in json.loads((folder / "images.json").read_text()):
        image = load_image(folder / case["file"], release_compat=True)
        small = preprocess(image, 56, CLIP_MEAN, CLIP_STD).numpy()
        large = preprocess(image, 420, CLIP_MEAN, CLIP_STD).numpy()
        np.testing.assert_array_equal(small, recorded[f"{case['name']}.res56"])
        np.testing.assert_array_equal(large[:, ::7, ::7], recorded[f"{case['name']}.res420_stride7"])
        assert (digest(image, 56), digest(image, 420)) == (case["res56_sha256_f32"], case["res420_sha256_f32"])
        crop = folder / f"{case['name']}.crop420.png"
        if crop.exists():
            np.testing.assert_array_equal(resize_crop(image, 420).numpy(), np.asarray(Image.open(crop)))
    for case in json.loads((folder / "geometry.json").read_text()):
        width, height = resized_size(case["w"], case["h"], case["res"])
        assert [width, height] == case["resized"]
        assert (crop_offset(width, case["res"]), crop_offset(height, case["res"])) == (case["left"], case["top"])


@pytest.mark.parametrize(
    ("width", "height", "size", "resized"),
    [(266, 126, 56, (118, 56)), (157, 734, 56, (56, 261)), (9, 74, 56, (56, 460)), (690, 692, 70, (70, 70)),
     (454, 14, 70, (2270, 70)), (63, 503, 420, (420, 3353)), (1, 1000, 420, (420, 420_000))],
)  # fmt: skip
def test_longer_side_is_truncated(width: int, height: int, size: int, resized: tuple[int, int]) -> None:
    assert resized_size(width, height, size) == resized
    assert resized_size(height, width, size) == resized[::-1]


def test_crop_rounds_half_to_even() -> None:
    assert [crop_offset(56 + excess, 56) for excess in range(12)] == [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6]


def test_exif_orientation_is_honoured_except_in_release_compat() -> None:
    upright, raw = (load_image(DATA / "exif6.jpg", release_compat=compat) for compat in (False, True))
    assert (raw.size, upright.size) == ((120, 80), (80, 120))
    np.testing.assert_array_equal(np.asarray(upright), np.rot90(np.asarray(raw), k=-1))
    with Image.open(DATA / "exif6.jpg") as opened:
        assert load_image(opened).size == (80, 120)


def test_unreadable_exif_leaves_the_picture() -> None:
    content = saved(noise(8, 8), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff garbage")
    assert load_image(content).size == (8, 8)


@pytest.mark.parametrize("release_compat", [False, True])
def test_transparency_is_dropped_not_composited(release_compat: bool) -> None:
    rgba = np.dstack([np.asarray(noise(5, 7)), np.zeros((5, 7), np.uint8)])
    for content in (saved(Image.fromarray(rgba)), saved(Image.fromarray(rgba), "TIFF")):
        np.testing.assert_array_equal(np.asarray(load_image(content, release_compat=release_compat)), rgba[..., :3])
    grey_alpha = Image.fromarray(rgba[..., [0, 3]], "LA")
    image = np.asarray(load_image(saved(grey_alpha), release_compat=release_compat))
    np.testing.assert_array_equal(image, np.repeat(rgba[..., :1], 3, axis=2))


def test_cmyk() -> None:
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    assert load_image(saved(cmyk, "TIFF")).getpixel((0, 0)) == (255, 0, 0)


def test_one_bit_and_palette() -> None:
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    assert np.asarray(load_image(saved(bits)))[..., 0].tolist() == [[0, 255], [255, 0]]
    palette = Image.new("P", (1, 2))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    assert np.asarray(load_image(saved(palette, transparency=0)))[:, 0].tolist() == [[10, 20, 30], [40, 50, 60]]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_shades(format: str) -> None:
    values = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
    content = saved(Image.fromarray(values), format)
    assert np.asarray(load_image(content))[..., 1].tolist() == [[0, 0, 1], [128, 255, 255]]
    compat = np.asarray(load_image(content, release_compat=True))[..., 1].tolist()
    assert compat == [[0, 255, 255], [255, 255, 255]]  # the authors' convert("RGB") clips


def test_values_that_have_no_brightness() -> None:
    floats = Image.fromarray(np.full((2, 2), 0.5, np.float32))
    with pytest.raises(LynxError, match="floating-point pixels have no defined brightness"):
        load_image(saved(floats, "TIFF"))
    integers = Image.fromarray(np.array([[-1, 70_000]], np.int32))
    with pytest.raises(LynxError, match="grey values from -1 to 70000"):
        load_image(saved(integers, "TIFF"))


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "blue")]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(content).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3), (7, 1), (2, 60), (300, 3), (56, 56), (57, 56), (9, 500)])
def test_strip_equals_pillow(height: int, width: int) -> None:
    for size in (64, 70, 224):
        image = noise(height, width, seed=height * width)
        resized = resized_size(width, height, size)
        offsets = [crop_offset(side, size) for side in resized]
        if height != width:
            strip = upscale_strip(image, size, max(resized), max(offsets))
            np.testing.assert_array_equal(resize_crop(image, size).numpy(), strip)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(("short", "long"), [(1, 1000), (3, 20_000)])
def test_very_long_images_are_answered_without_enlarging_all(
    short: int, long: int, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = noise(long, short)
    scale = 420 // short
    window, size = image.crop((0, long // 2 - 10, short, long // 2 + 10)), (420, 20 * scale)
    box = (0, 10 * scale - 210, 420, 10 * scale + 210)
    if wide:
        image, window = (picture.transpose(Image.Transpose.TRANSPOSE) for picture in (image, window))
        size, box = size[::-1], (box[1], box[0], box[3], box[2])
    expected = np.asarray(window.resize(size, Image.Resampling.BICUBIC).crop(box))
    resize = Image.Image.resize

    def limited(self: Image.Image, size: tuple[int, int], *args: Any) -> Image.Image:
        assert size[0] * size[1] <= 420 * 420
        return resize(self, size, *args)

    monkeypatch.setattr(Image.Image, "resize", limited)
    np.testing.assert_array_equal(resize_crop(image, 420).numpy(), expected)


def test_pil_images_arrays_and_paths_are_equal(tmp_path: Path) -> None:
    image = noise(5, 6)
    array = np.asarray(image)
    image.save(tmp_path / "a.png")
    for source in (image, array, array[::1], saved(image), tmp_path / "a.png", str(tmp_path / "a.png")):
        np.testing.assert_array_equal(np.asarray(load_image(source)), array)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2, 3), np.float32), np.zeros((2, 2), np.uint8), np.zeros((0, 2, 3), np.uint8)]
)
def test_arrays_that_are_not_images(array: Any) -> None:
    with pytest.raises(LynxError, match=r"^picture: "):
        load_image(array, name="picture")


@pytest.mark.parametrize("source", [None, 3, 2.5, ["a.png"], {"image": "a.png"}])
def test_sources_of_the_wrong_type(source: Any) -> None:
    with pytest.raises(LynxError, match=r"^image: wanted a path or the bytes of a file, got"):
        load_image(source)


def test_paths_that_are_not_images(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image at all")
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in {
        "missing.png": "missing.png: no such file", ".": "is a directory", "empty.png": "empty.png: is empty",
        "text.png": "text.png: is not an image", "pipe.png": "pipe.png: is not a regular file",
        "x" * 5000: "no such file", "nul\0byte": "no such file",
    }.items():  # fmt: skip
        with pytest.raises(LynxError, match=message):
            load_image(tmp_path / name)
    with pytest.raises(LynxError, match=r"^image: is empty"):
        load_image(b"")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files(format: str) -> None:
    content = saved(noise(64, 64), format)
    assert load_image(content).size == (64, 64)
    for length in (4, 20, len(content) // 2, int(len(content) * 0.9)):
        with pytest.raises(LynxError, match=r"^image: (is not an image|image is truncated or damaged)"):
            load_image(content[:length])


def test_decompression_bombs_are_refused_before_decoding() -> None:
    for side in (9_460, 14_000, 60_000):
        refused = pytest.raises(LynxError, match=f"over the limit of {MAX_IMAGE_PIXELS} pixels")
        with warnings.catch_warnings(action="error"), refused:
            load_image(png_header(side, side))
    with pytest.raises(LynxError, match="truncated or damaged"):
        load_image(png_header(9_450, 9_450))


def test_executable_formats_are_not_opened() -> None:
    with pytest.raises(LynxError, match="is not an image"):
        load_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
