"""Draws scenes with Pillow, every picture a little differently: size, shades, edges, noise, JPEG artefacts."""

from __future__ import annotations

import colorsys
import functools
import io
import math
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .scene import Scene, Thing, Word

# hue in degrees, saturation and value in 0..1, each as (low, high)
_SHADES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-8, 8), (0.78, 1.0), (0.7, 1.0)),
    "orange": ((24, 40), (0.85, 1.0), (0.92, 1.0)),
    "yellow": ((51, 62), (0.75, 1.0), (0.88, 1.0)),
    "green": ((95, 150), (0.6, 1.0), (0.45, 1.0)),
    "blue": ((205, 245), (0.7, 1.0), (0.6, 1.0)),
    "purple": ((270, 300), (0.5, 1.0), (0.45, 0.95)),
    "black": ((0, 360), (0.0, 0.2), (0.0, 0.15)),
    "white": ((0, 360), (0.0, 0.04), (0.94, 1.0)),
    "gray": ((0, 360), (0.0, 0.06), (0.4, 0.7)),
}
_SIDES = (112, 140, 168, 224, 224, 256, 320)


def draw_scene(scene: Scene, rng: Random) -> Image.Image:
    """One picture of the scene, RGB, square, 112 to 320 pixels a side."""
    return draw_frames([scene], rng)[0]


def draw_frames(frames: list[Scene], rng: Random) -> list[Image.Image]:
    """Pictures of a clip's frames: the same shades and the same camera for all of them."""
    style = rng.getrandbits(64)
    return [_draw(frame, Random(style)) for frame in frames]


def _draw(scene: Scene, rng: Random) -> Image.Image:
    side = rng.choice(_SIDES)
    shades = {name: _shade(name, rng) for name in _SHADES}
    image = Image.new("RGB", (side, side), shades[scene.background])
    canvas = ImageDraw.Draw(image)
    outline = rng.random() < 0.15
    for thing in scene.things:
        _draw_thing(canvas, thing, side, shades[thing.colour], _ink(scene.background) if outline else None)
    if scene.word is not None:
        _draw_word(image, scene.word, scene.background, rng)
    return _photograph(image, rng)


def _shade(name: str, rng: Random) -> tuple[int, int, int]:
    hue, saturation, value = (rng.uniform(*limits) for limits in _SHADES[name])
    red, green, blue = colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _ink(background: str) -> tuple[int, int, int]:
    return (235, 235, 235) if background in ("black", "blue", "green") else (20, 20, 20)


def _draw_thing(
    canvas: ImageDraw.ImageDraw,
    thing: Thing,
    side: int,
    fill: tuple[int, int, int],
    outline: tuple[int, int, int] | None,
) -> None:
    x, y, radius = thing.x * side, thing.y * side, thing.radius * side
    if thing.shape == "circle":
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=outline)
        return
    turn = math.radians(thing.angle)
    cos, sin = math.cos(turn) * radius, math.sin(turn) * radius
    corners = [(x + px * cos - py * sin, y + px * sin + py * cos) for px, py in outline_of(thing.shape)]
    canvas.polygon(corners, fill=fill, outline=outline)


@functools.cache
def outline_of(shape: str) -> tuple[tuple[float, float], ...]:
    """Corners of a shape inside the unit circle, y downwards."""
    if shape == "square":
        return _polar((45, 135, 225, 315), (0.95,))
    if shape == "triangle":
        return _polar((-90, 30, 150), (1.0,))
    if shape == "star":
        return _polar(tuple(range(-90, 270, 36)), (1.0, 0.42))
    if shape == "cross":
        a, b = 0.3, 0.92
        return (
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        )
    if shape == "heart":
        turns = [math.tau * k / 40 for k in range(40)]
        return tuple((math.sin(t) ** 3 * 0.95, _heart_height(t) / 17) for t in turns)
    raise ValueError(f"unknown shape {shape!r}")


def _heart_height(t: float) -> float:
    return -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) - 1.5


def _polar(degrees: tuple[int, ...], radii: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    points = []
    for k, degree in enumerate(degrees):
        radius, turn = radii[k % len(radii)], math.radians(degree)
        points.append((radius * math.cos(turn), radius * math.sin(turn)))
    return tuple(points)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _draw_word(image: Image.Image, word: Word, background: str, rng: Random) -> None:
    """Writes the word in Pillow's own font, bold, slanted or in capitals at times, stretched to its box."""
    text = rng.choice((word.text, word.text, word.text.upper(), word.text.capitalize()))
    stroke = rng.choice((1, 2, 2, 3))
    left, top, right, bottom = _font(48).getbbox(text, stroke_width=stroke)
    mask = Image.new("L", (int(right - left) + 12, int(bottom - top) + 4), 0)
    ImageDraw.Draw(mask).text((6 - left, 2 - top), text, fill=255, font=_font(48), stroke_width=stroke)
    slant = rng.choice((0.0, 0.0, rng.uniform(-0.2, 0.2)))
    if slant:
        shear = (1, slant, -slant * mask.height / 2, 0, 1, 0)
        mask = mask.transform(mask.size, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR)
    side = image.width
    size = max(1, round(word.width * side)), max(1, round(word.height * side))
    mask = mask.resize(size, Image.Resampling.BILINEAR)
    corner = round((word.x - word.width / 2) * side), round((word.y - word.height / 2) * side)
    image.paste(_ink(background) if rng.random() < 0.7 else _contrast(background, rng), corner, mask)


def _contrast(background: str, rng: Random) -> tuple[int, int, int]:
    dark = background in ("black", "blue", "green")
    return _shade(rng.choice(("white", "yellow") if dark else ("black", "red", "blue", "purple")), rng)


def _photograph(image: Image.Image, rng: Random) -> Image.Image:
    """Blur, noise, uneven light or JPEG artefacts, each in a part of the pictures; one in three stays clean."""
    effects = rng.choices(("blur", "noise", "light", "jpeg"), k=rng.choice((0, 1, 2)))
    if "blur" in effects:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9) * image.width / 168))
    if "light" in effects or "noise" in effects:
        image = _uneven(image, rng, "light" in effects, "noise" in effects)
    if "jpeg" in effects:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=rng.randint(35, 95))
        image = Image.open(buffer).convert("RGB")
    return image


def _uneven(image: Image.Image, rng: Random, light: bool, noise: bool) -> Image.Image:
    pixels: NDArray[np.float32] = np.asarray(image, dtype=np.float32)
    if light:
        across = np.linspace(rng.uniform(0.85, 1.1), rng.uniform(0.85, 1.1), image.width, dtype=np.float32)
        pixels = pixels * across[None, :, None]
    if noise:
        draws = np.random.default_rng(rng.getrandbits(64))
        grain = draws.integers(-128, 128, pixels.shape, dtype=np.int8)
        pixels = pixels + grain * np.float32(rng.uniform(0.02, 0.14))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
