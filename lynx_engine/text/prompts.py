"""Questions and conversations as the text that Lynx was trained on (REFERENCE.md section 8.1, LYNX.md section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import LynxError
from .tokenizer import Tokenizer

PROMPT = "User: {question}\nBot:"


class _Fields(Mapping[str, Any]):
    """The annotation as `str.format_map` sees it: a placeholder without a field is an error that names both sides."""

    def __init__(self, annotation: Mapping[str, Any], any_type: bool) -> None:
        self._annotation, self._any_type = annotation, any_type

    def __getitem__(self, key: str) -> Any:
        if key not in self._annotation:
            available = ", ".join(map(str, self._annotation)) or "none"
            raise LynxError(f"prompt: no value for placeholder {{{key}}}; keys available: {available}")
        value = self._annotation[key]
        if not self._any_type and (isinstance(value, bool) or not isinstance(value, (str, int, float))):
            raise LynxError(f"{key}: wanted text, got {type(value).__name__}: {value!r:.60}")
        return value

    def __iter__(self) -> Any:
        return iter(self._annotation)

    def __len__(self) -> int:
        return len(self._annotation)


def render(
    template: str, annotation: Mapping[str, Any], lower_text: bool = True, *, release_compat: bool = False
) -> str:
    """`template` with its {placeholders} filled from `annotation`, stripped, in lower case if `lower_text`.

    release_compat=True formats values of any type, as the authors' code does; else a value must be text or a number.
    Raises LynxError for a missing key (naming the placeholder and the keys there are) or a malformed template.
    """
    if not isinstance(annotation, Mapping):
        raise LynxError(f"prompt: wanted an object with the placeholders' values, got {type(annotation).__name__}")
    try:
        text = template.strip().format_map(_Fields(annotation, release_compat)).strip()
    except LynxError:
        raise
    except (ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise LynxError(f"prompt template {template!r} does not fit its values: {error}") from error
    return text.lower() if lower_text else text


def render_chat(
    rounds: Sequence[tuple[str, str]], question: str, lower_text: bool = True, template: str = PROMPT
) -> str:
    """Finished rounds (question, answer), then the open question: `User: ..\\nBot: ..\\nUser: ..\\nBot:`."""
    finished = [f"{render(template, {'question': asked}, False)} {answer.strip()}" for asked, answer in rounds]
    text = "\n".join([*finished, render(template, {"question": question}, False)])
    return text.lower() if lower_text else text


def encode_chat(
    tokenizer: Tokenizer,
    rounds: Sequence[tuple[str, str]],
    question: str,
    *,
    max_tokens: int,
    lower_text: bool = True,
    template: str = PROMPT,
) -> list[int]:
    """Ids of a conversation, BOS first; the oldest whole rounds go while it is longer than `max_tokens` (if positive).

    Where the open question alone is too long, its own beginning is cut.
    """
    for first in range(len(rounds) + 1):
        ids = tokenizer.encode(render_chat(rounds[first:], question, lower_text, template))
        if max_tokens <= 0 or len(ids) <= max_tokens:
            return ids
    return tokenizer.encode(render_chat((), question, lower_text, template), max_tokens=max_tokens)
