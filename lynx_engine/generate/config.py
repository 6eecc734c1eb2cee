"""How an answer is searched for: `GenerationConfig`, its presets, and the authors' configuration keys."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import LynxError

# 2048 ** 50 is still a float; a hypothesis' score divides by length ** length_penalty
_MAX_LENGTH_PENALTY = 50.0


@dataclass(frozen=True)
class GenerationConfig:
    """Every setting of a search; the neutral defaults are plain greedy decoding.

    max_new_tokens: tokens after the prompt, the end token included.
    num_beams: 1 is greedy or sampling; more is beam search, with `do_sample` beam sampling.
    temperature, top_k, top_p: only used with `do_sample`, in this order; top_k 0 and top_p 1.0 keep every token.
    repetition_penalty: scores of tokens already in the answer are divided (positive) or multiplied (negative) by it.
    no_repeat_ngram_size: n-grams of this size occur once in an answer; 0 allows repeats.
    min_length: as the authors count it, with the BOS that leads every answer: 2 forbids an empty answer.
    length_penalty: a beam's score is its log-probability / length ** length_penalty.
    num_return_sequences: answers a prompt; without `do_sample` at most `num_beams`.
    stop: the answer ends before the first of these strings.
    seed: of the random draws; None takes torch's global generator.
    release_compat: reproduce what the authors' software did where a row's answer depended on its batch
        (REFERENCE.md section 7). By default every row gets the answer it would get alone.
    """

    max_new_tokens: int = 64
    num_beams: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    min_length: int = 0
    length_penalty: float = 1.0
    num_return_sequences: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    release_compat: bool = False

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "num_return_sequences"):
            self._check_integer(name, low=1)
        for name in ("top_k", "no_repeat_ngram_size", "min_length"):
            self._check_integer(name, low=0)
        for name in ("temperature", "repetition_penalty", "length_penalty", "top_p"):
            self._check_number(name)
        for name in ("do_sample", "release_compat"):
            self._check(isinstance(getattr(self, name), bool), name, "True or False")
        if self.seed is not None:
            self._check_integer("seed", low=0, high=2**63 - 1)
        self._check(self.temperature > 0, "temperature", "a number above 0")
        self._check(self.repetition_penalty > 0, "repetition_penalty", "a number above 0")
        self._check(0 <= self.top_p <= 1, "top_p", "a number in [0, 1]")
        limit = _MAX_LENGTH_PENALTY
        self._check(abs(self.length_penalty) <= limit, "length_penalty", f"a number in [-{limit:g}, {limit:g}]")
        self._check_stop()
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise LynxError(
                f"num_return_sequences {self.num_return_sequences} needs as many beams without do_sample, "
                f"got num_beams {self.num_beams}"
            )

    def _check(self, ok: bool, name: str, wanted: str) -> None:
        if not ok:
            raise LynxError(f"GenerationConfig.{name}: wanted {wanted}, got {getattr(self, name)!r}")

    def _check_integer(self, name: str, low: int, high: float = math.inf) -> None:
        value = getattr(self, name)
        ok = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        self._check(ok, name, f"an integer of at least {low}" if high == math.inf else f"an integer in [{low}, {high}]")

    def _check_number(self, name: str) -> None:
        value = getattr(self, name)
        ok = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        self._check(ok, name, "a finite number")
        object.__setattr__(self, name, float(value))

    def _check_stop(self) -> None:
        given = (self.stop,) if isinstance(self.stop, str) else self.stop
        ok = isinstance(given, (list, tuple)) and all(isinstance(text, str) and text for text in given)
        self._check(ok, "stop", "a list of non-empty strings")
        object.__setattr__(self, "stop", tuple(given))

    def replace(self, **changes: Any) -> GenerationConfig:
        """A copy with fields changed; an unknown name is a LynxError."""
        _check_known(changes)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GenerationConfig:
        """Inverse of `to_dict`; an unknown name is a LynxError."""
        _check_known(values)
        return cls(**values)

    @classmethod
    def preset(cls, name: str) -> GenerationConfig:
        """A named row of LYNX.md section 4; `-` and `_` in the name are the same."""
        key = name.replace("_", "-").lower()
        if key not in PRESETS:
            raise LynxError(f"unknown generation preset {name!r}; presets: {', '.join(PRESETS)}")
        return PRESETS[key]

    @classmethod
    def from_authors(cls, config: Mapping[str, Any], **changes: Any) -> GenerationConfig:
        """The generation keys of an authors' configuration (LYNX.yaml), others ignored.

        Missing keys take the defaults of the authors' generate method; `changes` are fields of this class and win.
        """
        fields = dict(_AUTHORS_DEFAULTS)
        for key in (*_AUTHORS_DEFAULTS, *_AUTHORS_RENAMED):
            if config.get(key) is not None:
                fields[_AUTHORS_RENAMED.get(key, key)] = config[key]
        for key in ("no_repeat_ngram_size", "min_length"):
            if isinstance(fields[key], int):
                fields[key] = max(fields[key], 0)  # the authors' software reads -1 as off
        return cls(**fields).replace(**changes)


_AUTHORS_RENAMED = {"use_nucleus_sampling": "do_sample"}
_AUTHORS_DEFAULTS: dict[str, Any] = {
    "max_new_tokens": 64,
    "num_beams": 5,
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 3,
    "top_p": 0.9,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 3,
    "min_length": 2,
    "length_penalty": 1.0,
    "num_return_sequences": 1,
}


def _check_known(values: Mapping[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(GenerationConfig)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise LynxError(f"unknown generation setting(s) {', '.join(unknown)}; known: {', '.join(known)}")


_BEAM_5 = GenerationConfig(
    max_new_tokens=64, num_beams=5, top_p=1.0, top_k=1, length_penalty=-2.0, no_repeat_ngram_size=2
)
_NUCLEUS = GenerationConfig(
    max_new_tokens=256, num_beams=3, top_p=0.9, top_k=3, length_penalty=1.0, no_repeat_ngram_size=3, do_sample=True
)
PRESETS: dict[str, GenerationConfig] = {
    "describe": _BEAM_5,
    "open-vqa": _BEAM_5,
    "open-vqa-video": _BEAM_5.replace(max_new_tokens=128, num_beams=3, length_penalty=-1.0, no_repeat_ngram_size=3),
    "owl-eval": _NUCLEUS,
    "demo": _NUCLEUS,
    "round-0": _NUCLEUS.replace(max_new_tokens=128, num_beams=1),
    "release": _BEAM_5.replace(min_length=2, top_p=0.9, top_k=3, do_sample=True),
    "greedy": GenerationConfig(),
}
