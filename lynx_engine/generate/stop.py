"""Stop strings: where an answer's text ends, however its characters are split over tokens."""

from __future__ import annotations

from collections.abc import Callable

Decode = Callable[[list[int]], str]


def cut_at_stop(text: str, stop: tuple[str, ...]) -> str:
    """The text before the first stop string in it, or all of it."""
    found = [start for start in (text.find(string) for string in stop) if start >= 0]
    return text[: min(found)] if found else text


def held_back(text: str, stop: tuple[str, ...]) -> int:
    """How many last characters of a text that is still growing may be the beginning of a stop string."""
    longest = min(max(map(len, stop), default=0) - 1, len(text))
    for count in range(longest, 0, -1):
        if any(string.startswith(text[-count:]) for string in stop):
            return count
    return 0


class StopStrings:
    """Tells whether generated ids have reached a stop string.

    Decodes the whole answer each time: a stop string may span tokens, a character may span byte tokens, and the text
    of a tail of ids is not the tail of the text.
    """

    def __init__(self, stop: tuple[str, ...], decode: Decode) -> None:
        self.stop = stop
        self.decode = decode

    def reached(self, token_ids: list[int]) -> bool:
        text = self.decode(token_ids)
        return any(string in text for string in self.stop)
