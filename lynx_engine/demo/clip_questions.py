"""Questions about what happens in a clip, and captions of clips."""

from __future__ import annotations

from random import Random

from .questions import Round, typed
from .scene import Clip, Event, Thing

_QUESTIONS = {
    "direction": (
        "which way does the {name} move?",
        "in which direction does the {name} move?",
        "where does the {name} go?",
    ),
    "mover": ("what moves?", "which shape moves?", "what is moving?"),
    "faster": ("which shape is faster?", "what moves faster?", "which one is the fastest?"),
    "change": ("what happens to the {name}?", "what does the {name} do?"),
    "appears": ("what appears?", "which shape appears?", "what is new at the end?"),
    "disappears": ("what disappears?", "which shape disappears?", "what is gone at the end?"),
    "turns": ("which color does the {shape} turn?", "what colour does the {shape} become?"),
    "anything": ("does anything move?", "is anything moving?", "do you see motion?"),
    "count": ("how many shapes move?", "how many things are moving?"),
}
CLIP_KINDS = tuple(_QUESTIONS)
_DESCRIBE = ("describe the video.", "describe the clip in detail", "what happens?", "what happens in the video?")


def ask_about_clip(clip: Clip, rng: Random, count: int) -> list[Round]:
    """`count` questions of different kinds (fewer if the clip does not answer so many)."""
    answered = _answers(clip, rng)
    kinds = rng.sample(sorted(answered), min(count, len(answered)))
    return [_round(kind, *answered[kind], rng) for kind in kinds]


def clip_caption(clip: Clip, rng: Random) -> Round:
    """What each thing does, or that nothing happens."""
    parts = [f"the {thing.name} {happening(event)}" for thing, event in _eventful(clip)]
    return Round("clip caption", typed(rng.choice(_DESCRIBE), rng), " and ".join(parts) or "nothing happens")


def happening(event: Event | None) -> str:
    """As in "moves left", "appears", "turns red", "stays"."""
    if event is None:
        return "stays"
    return f"{event.kind} {event.direction or event.colour}".strip()


def _round(kind: str, values: dict[str, str], answer: str, rng: Random) -> Round:
    return Round(f"clip: {kind}", typed(rng.choice(_QUESTIONS[kind]).format(**values), rng), answer)


def _eventful(clip: Clip) -> list[tuple[Thing, Event]]:
    pairs = [(thing, clip.event_of(index)) for index, thing in enumerate(clip.scene.things)]
    return [(thing, event) for thing, event in pairs if event is not None]


def _answers(clip: Clip, rng: Random) -> dict[str, tuple[dict[str, str], str]]:
    """Of each kind of question that this clip answers: the placeholders' values and the answer."""
    movers = [(thing, event) for thing, event in _eventful(clip) if event.kind == "moves"]
    answers: dict[str, tuple[dict[str, str], str]] = {
        "anything": ({}, "yes" if movers else "no"),
        "count": ({}, str(len(movers))),
    }
    index = rng.randrange(len(clip.scene.things))
    answers["change"] = ({"name": clip.scene.things[index].name}, f"it {happening(clip.event_of(index))}")
    if movers:
        thing, event = rng.choice(movers)
        answers["direction"] = ({"name": thing.name}, event.direction)
    if len(movers) == 1:
        answers["mover"] = ({}, movers[0][0].name)
    if len(movers) == 2:
        answers["faster"] = ({}, next(thing.name for thing, event in movers if event.fast))
    shapes = [thing.shape for thing in clip.scene.things]
    for thing, event in _eventful(clip):
        if event.kind in ("appears", "disappears"):
            answers[event.kind] = ({}, thing.name)
        elif event.kind == "turns" and shapes.count(thing.shape) == 1:
            answers["turns"] = ({"shape": thing.shape}, event.colour)
    return answers
