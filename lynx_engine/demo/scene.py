"""What a demo picture shows: a background, some coloured shapes, perhaps a short word; clips of five such frames.

Everything is drawn from a `random.Random`, so a scene is a function of its seed. Lengths are fractions of the picture's
side, x grows to the right and y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
BACKGROUNDS = ("white", "black", "gray", "yellow", "green", "blue")
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
SIZES = ("small", "big")
WORDS = tuple(
    "ant apple arm ball bear bed bee bell bird boat book box bread bus cake car cat chair cow cup day dog door "
    "duck egg fire fish fox frog go hat hello home horse house ice key king leaf lion milk moon no open owl park "
    "pen pig rain sea ship shop sky snow stop sun tea taxi tree van water wind yes zoo".split()
)
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
NUM_FRAMES = 5

_GAP = 0.02
_TRIES = 60


@dataclass(frozen=True)
class Thing:
    """One coloured shape: centre (x, y), radius of its circumscribed circle, rotation in degrees."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Word:
    """A word written with its centre at (x, y) in a box of the given width and height."""

    text: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class World:
    """What scenes are made of.

    most: things in a picture without a word. small_radius, big_radius: lowest and highest. lone_radius: of a big thing
    on its own, which may fill most of the picture. word_height; word_floor: lowest and highest distance of a word from
    the picture's lower edge.
    """

    colours: tuple[str, ...] = COLOURS
    shapes: tuple[str, ...] = SHAPES
    words: tuple[str, ...] = WORDS
    most: int = 4
    small_radius: tuple[float, float] = (0.07, 0.10)
    big_radius: tuple[float, float] = (0.135, 0.18)
    lone_radius: tuple[float, float] = (0.135, 0.38)
    word_height: tuple[float, float] = (0.13, 0.26)
    word_floor: tuple[float, float] = (0.02, 1.0)


LANGUAGE = World()
# What pictures show is less than what the language knows: what a small encoder learns to tell apart in minutes.
CROWDED = World(
    colours=tuple(colour for colour in COLOURS if colour != "orange"),
    shapes=("circle", "square", "triangle", "star"),
    words=("cat", "dog", "sun", "car", "bus", "hat", "cup", "key", "egg", "box", "zoo", "ice"),
    small_radius=(0.09, 0.12),
    big_radius=(0.165, 0.21),
    lone_radius=(0.165, 0.38),
    word_height=(0.22, 0.3),
    word_floor=(0.02, 0.12),
)
PICTURES = replace(CROWDED, most=3)


@dataclass(frozen=True)
class Scene:
    background: str
    things: tuple[Thing, ...]
    word: Word | None = None


@dataclass(frozen=True)
class Event:
    """What happens to thing number `index` of a clip: moves, appears, disappears, or turns into `colour`.

    `fast` tells apart the two movers of a clip; `distance` is how far it goes between the first and the last frame.
    """

    index: int
    kind: str
    direction: str = ""
    distance: float = 0.0
    colour: str = ""
    fast: bool = False


@dataclass(frozen=True)
class Clip:
    """Five frames: `scene` is the first one, had everything that appears been there from the start."""

    scene: Scene
    events: tuple[Event, ...]

    def frames(self) -> list[Scene]:
        """The five pictures; appearing, disappearing and turning happen between the second and the fourth frame."""
        return [self._frame(step) for step in range(NUM_FRAMES)]

    def event_of(self, index: int) -> Event | None:
        return next((event for event in self.events if event.index == index), None)

    def _frame(self, step: int) -> Scene:
        things = []
        for index, thing in enumerate(self.scene.things):
            event = self.event_of(index)
            changed = thing if event is None else _after(thing, event, step)
            if changed is not None:
                things.append(changed)
        return replace(self.scene, things=tuple(things))


def _after(thing: Thing, event: Event, step: int) -> Thing | None:
    half = NUM_FRAMES // 2
    if event.kind == "moves":
        dx, dy = DIRECTIONS[event.direction]
        way = event.distance * step / (NUM_FRAMES - 1)
        return replace(thing, x=thing.x + dx * way, y=thing.y + dy * way)
    if event.kind == "appears":
        return thing if step >= half else None
    if event.kind == "disappears":
        return thing if step < half else None
    return replace(thing, colour=event.colour) if step >= half else thing


def sample_scene(rng: Random, world: World = PICTURES) -> Scene:
    """A picture: up to `world.most` things, in every third picture a word; 1 in 12 shows the word alone."""
    background = _sample_background(rng)
    words_only = rng.random() < 1 / 12
    word = _sample_word(rng, world) if words_only or rng.random() < 0.3 else None
    count = 0 if words_only else rng.randint(1, 2 if word else world.most)
    return Scene(background, _sample_things(rng, world, count, background, word), word)


def sample_clip(rng: Random, world: World = PICTURES) -> Clip:
    """A clip: 1-3 things of different names; one or two events, sometimes none."""
    while True:
        background = _sample_background(rng)
        things = _sample_things(rng, world, rng.randint(1, 3), background, None, small=True)
        if len({thing.name for thing in things}) == len(things):
            events = _sample_events(rng, world, Scene(background, things))
            if events is not None:
                return Clip(Scene(background, things), events)


def _sample_background(rng: Random) -> str:
    return rng.choice(BACKGROUNDS if rng.random() < 0.6 else BACKGROUNDS[:3])


def _sample_word(rng: Random, world: World) -> Word:
    text = rng.choice(world.words)
    height = rng.uniform(*world.word_height)
    width = min(0.9, height * (0.35 + 0.55 * len(text)) * rng.uniform(0.9, 1.15))
    x = rng.uniform(width / 2 + _GAP, 1 - width / 2 - _GAP)
    low, high = world.word_floor
    return Word(text, x, 1 - height / 2 - rng.uniform(low, min(high, 1 - height - _GAP)), width, height)


def _sample_things(
    rng: Random, world: World, count: int, background: str, word: Word | None, small: bool = False
) -> tuple[Thing, ...]:
    """`count` things (fewer if they do not fit) from a palette that is often narrow, so that pictures repeat kinds."""
    colours = [colour for colour in world.colours if colour != background]
    shapes = list(world.shapes)
    if rng.random() < 0.5:
        colours = rng.sample(colours, rng.randint(2, 3))
    if rng.random() < 0.5:
        shapes = rng.sample(shapes, rng.randint(1, 3))
    things: list[Thing] = []
    for _ in range(count):
        alone = count == 1 and word is None and not small
        radius = {"small": world.small_radius, "big": world.lone_radius if alone else world.big_radius}
        thing = _place(rng, rng.choice(shapes), rng.choice(colours), radius, things, word)
        if thing is not None:
            things.append(thing)
    return tuple(things)


def _place(
    rng: Random,
    shape: str,
    colour: str,
    radius: Mapping[str, tuple[float, float]],
    placed: list[Thing],
    word: Word | None,
) -> Thing | None:
    for _ in range(_TRIES):
        size = rng.choice(SIZES)
        reach = rng.uniform(*radius[size])
        edge = reach + _GAP
        thing = Thing(shape, colour, size, rng.uniform(edge, 1 - edge), rng.uniform(edge, 1 - edge), reach)
        if all(_clear(thing, other) for other in placed) and (word is None or _clear_of_word(thing, word)):
            return replace(thing, angle=rng.uniform(-12, 12))
    return None


def _clear(one: Thing, other: Thing) -> bool:
    return math.hypot(one.x - other.x, one.y - other.y) > one.radius + other.radius + _GAP


def _clear_of_word(thing: Thing, word: Word) -> bool:
    dx = max(abs(thing.x - word.x) - word.width / 2, 0)
    dy = max(abs(thing.y - word.y) - word.height / 2, 0)
    return math.hypot(dx, dy) > thing.radius + _GAP


def _sample_events(rng: Random, world: World, scene: Scene) -> tuple[Event, ...] | None:
    """Events that fit the scene, or None where a mover would leave the picture or cross another thing."""
    order = rng.sample(range(len(scene.things)), len(scene.things))
    kind = rng.choice(("moves", "moves", "moves", "race", "race", "appears", "disappears", "turns", "turns", "nothing"))
    if kind == "nothing":
        return ()
    if kind == "race":
        if len(order) < 2:
            return None
        distances = (rng.uniform(0.5, 0.65), rng.uniform(0.18, 0.25))
        events = [_move(rng, scene.things[i], i, way) for i, way in zip(order[:2], distances, strict=True)]
        events[0] = None if events[0] is None else replace(events[0], fast=True)
    elif kind == "moves":
        events = [_move(rng, scene.things[order[0]], order[0], rng.uniform(0.3, 0.6))]
    elif kind == "turns":
        taken = {thing.colour for thing in scene.things} | {scene.background}
        events = [Event(order[0], kind, colour=rng.choice([colour for colour in world.colours if colour not in taken]))]
    else:
        events = [Event(order[0], kind)]
    if any(event is None for event in events):
        return None
    clip = Clip(scene, tuple(event for event in events if event is not None))
    apart = all(_apart(frame.things) for frame in clip.frames())
    return clip.events if apart else None


def _move(rng: Random, thing: Thing, index: int, distance: float) -> Event | None:
    inside = []
    for direction, (dx, dy) in DIRECTIONS.items():
        x, y, edge = thing.x + dx * distance, thing.y + dy * distance, thing.radius + _GAP
        if edge <= x <= 1 - edge and edge <= y <= 1 - edge:
            inside.append(direction)
    return Event(index, "moves", direction=rng.choice(inside), distance=distance) if inside else None


def _apart(things: tuple[Thing, ...]) -> bool:
    return all(_clear(one, other) for i, one in enumerate(things) for other in things[:i])
