"""A scene or clip as terse text: what the language model reads in place of vision tokens while it learns to answer.

A fact is a name with what is said of it behind it ("red star big"): to find the fact is then to find the name and copy
what follows, which a small transformer learns early. Said before the name, or once for several facts, it learns late.
"""

from __future__ import annotations

from collections.abc import Sequence

from .clip_questions import happening
from .questions import cell
from .scene import Clip, Scene, Thing


def describe_scene(scene: Scene) -> str:
    """Background, the facts of each thing from left to right, the extremes among several things, the word.

    A thing's facts, as in "red star red star big red star top left red star147": shape and colour, size, part of the
    picture, and its ranks: 1 2 3 from the left, 4 5 6 from the top, 7 8 9 from the biggest.
    """
    things = sorted(scene.things, key=lambda thing: thing.x)
    parts = [scene.background, *(_facts(thing, things) for thing in things)]
    if len(things) > 1:
        parts += [f"{extreme} {min(things, key=key).name}" for extreme, key in _EXTREMES.items()]
    if scene.word is not None:
        parts.append(f"word {scene.word.text}")
    return "; ".join(parts)


def describe_clip(clip: Clip) -> str:
    """What each thing does, on both sides of its name, as in "moves up red star moves up", and which is the fastest."""
    things = sorted(enumerate(clip.scene.things), key=lambda pair: pair[1].x)
    happened = [(thing, clip.event_of(index)) for index, thing in things]
    parts = [f"{happening(event)} {thing.name} {happening(event)}" for thing, event in happened]
    parts += [f"fastest {thing.name}" for thing, event in happened if event is not None and event.fast]
    return "; ".join([f"video {clip.scene.background}", *parts])


_EXTREMES = {
    "leftmost": lambda thing: thing.x,
    "rightmost": lambda thing: -thing.x,
    "top": lambda thing: thing.y,
    "bottom": lambda thing: -thing.y,
    "biggest": lambda thing: -thing.radius,
    "smallest": lambda thing: thing.radius,
}
_RANKS = ("leftmost", "top", "biggest")


def _facts(thing: Thing, things: Sequence[Thing]) -> str:
    ranks = (sorted(things, key=_EXTREMES[order]).index(thing) for order in _RANKS)
    digits = "".join(str(1 + 3 * number + rank) for number, rank in enumerate(ranks))
    return f"{thing.name} {thing.name} {thing.size} {thing.name} {cell(thing.x, thing.y)} {thing.name}{digits}"
