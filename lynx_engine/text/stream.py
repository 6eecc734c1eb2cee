"""Token ids to pieces of text as they are generated."""

from __future__ import annotations

from collections.abc import Iterable

from .tokenizer import Tokenizer


class TextStream:
    """Incremental `Tokenizer.decode`: the pieces joined are exactly decode(all ids), and none ends inside a character.

    Bytes of a UTF-8 character arrive as one token each; they wait until the character is complete or cannot become one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._text = ""

    @property
    def text(self) -> str:
        """Everything handed out so far."""
        return self._text

    def push(self, ids: int | Iterable[int]) -> str:
        """Take the next id or ids; return the new text, "" while a character is incomplete."""
        given = [ids] if isinstance(ids, int) else [int(i) for i in ids]
        skipped = self._tokenizer.special_token_ids
        self._ids.extend(i for i in given if i not in skipped)
        # Pulling punctuation to its word rewrites text that was already handed out: such a tokenizer has to wait.
        return "" if self._tokenizer.special.clean_up_spaces else self._advance(self._stable_length())

    def finish(self) -> str:
        """The rest, with bytes that never became a character as U+FFFD."""
        return self._advance(len(self._ids))

    def _advance(self, length: int) -> str:
        text = self._tokenizer.decode(self._ids[:length])
        piece, self._text = text[len(self._text) :], text
        return piece

    def _stable_length(self) -> int:
        """Index of the lead byte of an unfinished character at the end, else the number of ids."""
        for back in range(1, min(3, len(self._ids)) + 1):
            value = self._tokenizer.byte_value(self._ids[-back])
            if value is None or value < 0x80:
                break
            if value >= 0xC0:
                size = 2 if value < 0xE0 else 3 if value < 0xF0 else 4
                return len(self._ids) - back if back < size else len(self._ids)
        return len(self._ids)
