"""A scene or clip as terse text: what the language model reads in place of vision tokens while it learns to answer."""

from __future__ import annotations

from .clip_questions import happening
from .questions import cell
from .scene import Clip, Scene, Thing


def describe_scene(scene: Scene) -> str:
    """Things from left to right with size, radius, part of the picture and row of ten: "red star big 3 top left 2"."""
    parts = [f"{thing.name} {_place(thing)}" for thing in sorted(scene.things, key=lambda thing: thing.x)]
    if scene.word is not None:
        parts.append(f"word {scene.word.text}")
    return "; ".join([scene.background, *parts])


def describe_clip(clip: Clip) -> str:
    """As `describe_scene`, with what each thing does."""
    parts = []
    for index, thing in sorted(enumerate(clip.scene.things), key=lambda pair: pair[1].x):
        event = clip.event_of(index)
        speed = " fast" if event is not None and event.fast else ""
        parts.append(f"{thing.name} {_place(thing)} {happening(event)}{speed}")
    return "; ".join([f"video {clip.scene.background}", *parts])


def _place(thing: Thing) -> str:
    return f"{thing.size} {min(int(thing.radius * 25), 9)} {cell(thing.x, thing.y)} {min(int(thing.y * 10), 9)}"
