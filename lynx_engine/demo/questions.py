"""Questions about a picture with their exact answers: seventeen kinds, several phrasings each, and captions.

A kind makes the values of its phrasings' placeholders and the answer, or None where the scene leaves room for doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from .scene import COLOURS, SHAPES, Scene, Thing

_CLEAR = 0.12  # two things are left and right of each other only if their centres are this far apart
_CELLS = (("top left", "top", "top right"), ("left", "center", "right"), ("bottom left", "bottom", "bottom right"))

Values = tuple[dict[str, str], str]


@dataclass(frozen=True)
class Round:
    """One question with its answer; `kind` for the table of accuracies."""

    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class Kind:
    """`practice`: how often training asks it, beside the others; more where it is learned late."""

    name: str
    phrasings: tuple[str, ...]
    make: Callable[[Scene, Random], Values | None]
    practice: float = 1.0

    def ask(self, scene: Scene, rng: Random) -> Round | None:
        made = self.make(scene, rng)
        if made is None:
            return None
        values, answer = made
        return Round(self.name, typed(rng.choice(self.phrasings).format(**values), rng), answer)


def typed(question: str, rng: Random) -> str:
    """As people type: one question in five without its last mark."""
    return question.rstrip("?.") if rng.random() < 0.2 else question


def ask_about(scene: Scene, rng: Random, count: int) -> list[Round]:
    """`count` questions of different kinds that the scene answers without doubt (fewer if there are not so many)."""
    rounds = (kind.ask(scene, rng) for kind in rng.sample(KINDS, len(KINDS)))
    found: list[Round] = []
    for asked in rounds:
        if asked is not None:
            found.append(asked)
            if len(found) == count:
                break
    return found


def practise(scene: Scene, rng: Random, count: int, kinds: Sequence[Kind]) -> list[Round]:
    """`count` different questions (fewer if there are not so many), drawn from `kinds` by their `practice`."""
    found: dict[tuple[str, str], Round] = {}
    for kind in rng.choices(kinds, [kind.practice for kind in kinds], k=4 * count):
        asked = kind.ask(scene, rng)
        if asked is not None:
            found.setdefault((asked.kind, asked.question), asked)
        if len(found) == count:
            break
    return list(found.values())


def caption(scene: Scene, rng: Random) -> Round:
    """All things from left to right, the word, the background."""
    things = [f"a {thing.size} {thing.name}" for thing in sorted(scene.things, key=lambda thing: thing.x)]
    if scene.word is not None:
        things.append(f"the word {scene.word.text}")
    listed = things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}" if things else "nothing"
    return Round("caption", typed(rng.choice(_DESCRIBE), rng), f"{listed} on a {scene.background} background")


_DESCRIBE = (
    "describe the picture.",
    "describe the image in detail",
    "what is in the picture?",
    "what do you see?",
    "what does the image show?",
)


def _only(scene: Scene, attribute: str, rng: Random) -> Thing | None:
    """A thing whose `attribute` no other thing has."""
    values = [getattr(thing, attribute) for thing in scene.things]
    unique = [thing for thing, value in zip(scene.things, values, strict=True) if values.count(value) == 1]
    return rng.choice(unique) if unique else None


def _pair(scene: Scene, rng: Random) -> tuple[Thing, Thing] | None:
    names = [thing.name for thing in scene.things]
    unique = [thing for thing in scene.things if names.count(thing.name) == 1]
    if len(unique) < 2:
        return None
    first, second = rng.sample(unique, 2)
    return first, second


def _colour_of_shape(scene: Scene, rng: Random) -> Values | None:
    thing = _only(scene, "shape", rng)
    return None if thing is None else ({"shape": thing.shape}, thing.colour)


def _shape_of_colour(scene: Scene, rng: Random) -> Values | None:
    thing = _only(scene, "colour", rng)
    return None if thing is None else ({"colour": thing.colour}, thing.shape)


def _count_all(scene: Scene, rng: Random) -> Values | None:
    return {}, str(len(scene.things))


def _count_colour(scene: Scene, rng: Random) -> Values | None:
    present = [thing.colour for thing in scene.things]
    colour = rng.choice(present if present and rng.random() < 0.8 else COLOURS)
    return {"colour": colour}, str(present.count(colour))


def _count_shape(scene: Scene, rng: Random) -> Values | None:
    present = [thing.shape for thing in scene.things]
    shape = rng.choice(present if present and rng.random() < 0.8 else SHAPES)
    return {"shapes": plural(shape)}, str(present.count(shape))


def _exists(scene: Scene, rng: Random) -> Values | None:
    names = {thing.name for thing in scene.things}
    if names and rng.random() < 0.5:
        return {"name": with_article(rng.choice(sorted(names)))}, "yes"
    absent = sorted({f"{colour} {shape}" for colour in COLOURS for shape in SHAPES} - names)
    return {"name": with_article(rng.choice(absent))}, "no"


def _exists_shape(scene: Scene, rng: Random) -> Values | None:
    shape = rng.choice(SHAPES)
    return {"shape": shape}, "yes" if any(thing.shape == shape for thing in scene.things) else "no"


def _position(scene: Scene, rng: Random) -> Values | None:
    thing = _only(scene, "name", rng)
    if thing is None:
        return None
    doubtful = any(abs(at - border) < 0.05 for at in (thing.x, thing.y) for border in (1 / 3, 2 / 3))
    return None if doubtful else ({"name": thing.name}, cell(thing.x, thing.y))


def cell(x: float, y: float) -> str:
    """The ninth of the picture in which a point lies, in words."""
    return _CELLS[min(int(3 * y), 2)][min(int(3 * x), 2)]


def _left_or_right(scene: Scene, rng: Random) -> Values | None:
    pair = _pair(scene, rng)
    if pair is None or abs(pair[0].x - pair[1].x) < _CLEAR:
        return None
    side, is_left = rng.choice(("left", "right")), pair[0].x < pair[1].x
    return {"a": pair[0].name, "b": pair[1].name, "side": side}, "yes" if is_left == (side == "left") else "no"


def _above_or_below(scene: Scene, rng: Random) -> Values | None:
    pair = _pair(scene, rng)
    if pair is None or abs(pair[0].y - pair[1].y) < _CLEAR:
        return None
    side, is_above = rng.choice(("above", "below")), pair[0].y < pair[1].y
    return {"a": pair[0].name, "b": pair[1].name, "side": side}, "yes" if is_above == (side == "above") else "no"


def _outermost(scene: Scene, rng: Random) -> Values | None:
    if len(scene.things) < 2:
        return None
    side = rng.choice(("leftmost", "rightmost", "top", "bottom"))
    axis, sign = ("x" if side in ("leftmost", "rightmost") else "y"), (1 if side in ("leftmost", "top") else -1)
    first, second = sorted(scene.things, key=lambda thing: sign * getattr(thing, axis))[:2]
    clear = abs(getattr(first, axis) - getattr(second, axis)) >= _CLEAR * 0.7
    return ({"side": side}, first.name) if clear else None


def _size(scene: Scene, rng: Random) -> Values | None:
    thing = _only(scene, "name", rng)
    return None if thing is None else ({"name": thing.name}, thing.size)


def _biggest(scene: Scene, rng: Random) -> Values | None:
    if len(scene.things) < 2:
        return None
    most = rng.choice(("biggest", "smallest"))
    ranked = sorted(scene.things, key=lambda thing: thing.radius, reverse=most == "biggest")
    ratio = ranked[0].radius / ranked[1].radius
    return ({"most": most}, ranked[0].name) if max(ratio, 1 / ratio) > 1.3 else None


def _read(scene: Scene, rng: Random) -> Values | None:
    return None if scene.word is None else ({}, scene.word.text)


def _background(scene: Scene, rng: Random) -> Values | None:
    return {}, scene.background


def _compare_counts(scene: Scene, rng: Random) -> Values | None:
    present = sorted({thing.shape for thing in scene.things})
    if not present:
        return None
    first = rng.choice(present)
    second = rng.choice([shape for shape in (present if len(present) > 1 else SHAPES) if shape != first])
    if rng.random() < 0.5:
        first, second = second, first
    counts = [sum(thing.shape == shape for thing in scene.things) for shape in (first, second)]
    return {"a": plural(first), "b": plural(second)}, "yes" if counts[0] > counts[1] else "no"


def _same_colour(scene: Scene, rng: Random) -> Values | None:
    shapes = [thing.shape for thing in scene.things]
    unique = [thing for thing in scene.things if shapes.count(thing.shape) == 1]
    if len(unique) < 2:
        return None
    first, second = rng.sample(unique, 2)
    return {"a": first.shape, "b": second.shape}, "yes" if first.colour == second.colour else "no"


def with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


KINDS: tuple[Kind, ...] = (
    Kind(
        "colour of a shape",
        (
            "what color is the {shape}?",
            "what colour is the {shape}?",
            "what is the color of the {shape}?",
            "which color does the {shape} have?",
        ),
        _colour_of_shape,
    ),
    Kind(
        "shape of a colour",
        ("what shape is {colour}?", "which shape is {colour}?", "what is the {colour} thing?", "what is {colour}?"),
        _shape_of_colour,
    ),
    Kind(
        "count everything",
        (
            "how many shapes are there?",
            "how many shapes are in the picture?",
            "how many things do you see?",
            "count the shapes.",
        ),
        _count_all,
        0.3,
    ),
    Kind(
        "count a colour",
        (
            "how many {colour} shapes are there?",
            "how many {colour} things are in the picture?",
            "count the {colour} shapes.",
            "how many shapes are {colour}?",
        ),
        _count_colour,
    ),
    Kind(
        "count a shape",
        ("how many {shapes} are there?", "how many {shapes} are in the picture?", "count the {shapes}."),
        _count_shape,
        0.5,
    ),
    Kind(
        "existence",
        ("is there {name}?", "is there {name} in the picture?", "do you see {name}?", "can you see {name}?"),
        _exists,
        0.6,
    ),
    Kind(
        "existence of a shape",
        ("is there a {shape}?", "is there a {shape} in the picture?", "do you see a {shape}?", "any {shape} here?"),
        _exists_shape,
        0.5,
    ),
    Kind(
        "position",
        (
            "where is the {name}?",
            "in which part of the picture is the {name}?",
            "what is the position of the {name}?",
        ),
        _position,
        1.5,
    ),
    Kind(
        "left or right",
        (
            "is the {a} {side} of the {b}?",
            "is the {a} to the {side} of the {b}?",
            "does the {a} lie {side} of the {b}?",
        ),
        _left_or_right,
        1.5,
    ),
    Kind(
        "above or below",
        ("is the {a} {side} the {b}?", "does the {a} lie {side} the {b}?", "can you see the {a} {side} the {b}?"),
        _above_or_below,
        1.5,
    ),
    Kind(
        "outermost",
        ("what is the {side} shape?", "which shape is the {side} one?", "name the {side} shape."),
        _outermost,
    ),
    Kind(
        "size",
        ("is the {name} big or small?", "what size is the {name}?", "how big is the {name}?"),
        _size,
    ),
    Kind(
        "biggest",
        ("what is the {most} shape?", "which shape is the {most}?", "name the {most} thing."),
        _biggest,
    ),
    Kind(
        "reading",
        (
            "what word is written?",
            "what does the text say?",
            "read the word.",
            "which word is in the picture?",
            "what is written in the picture?",
        ),
        _read,
        0.6,
    ),
    Kind(
        "background",
        (
            "what color is the background?",
            "what colour is the background?",
            "which color does the background have?",
            "what is the background color?",
        ),
        _background,
        0.3,
    ),
    Kind(
        "comparison of counts",
        ("are there more {a} than {b}?", "do you see more {a} than {b}?", "is the number of {a} larger than of {b}?"),
        _compare_counts,
        0.5,
    ),
    Kind(
        "same colour",
        (
            "do the {a} and the {b} have the same color?",
            "are the {a} and the {b} of the same colour?",
            "is the {a} the same color as the {b}?",
        ),
        _same_colour,
    ),
)
_OF_NAMES = ("colour of a shape", "shape of a colour", "position", "size")
NAME_KINDS = tuple(kind for kind in KINDS if kind.name in _OF_NAMES)
