"""Reading the authors' JSONL of questions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LynxError


@dataclass(frozen=True)
class Item:
    """One line: `index` as given, the whole object for the prompt's placeholders, and where it stands."""

    index: Any
    fields: dict[str, Any]
    where: str


def read_items(path: Path) -> list[Item]:
    """Every line of a JSONL file; a line that is no object or has no `index` is a LynxError with its number."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LynxError(f"{path}: cannot be read: {error}") from error
    return [_item(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]


def _item(line: str, where: str) -> Item:
    try:
        fields = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise LynxError(f"{where}: not a JSON line: {error}") from error
    if not isinstance(fields, dict):
        raise LynxError(f"{where}: wanted a JSON object, got {type(fields).__name__}")
    if "index" not in fields:
        raise LynxError(f"{where}: no `index`; the line has {', '.join(map(str, fields)) or 'no fields'}")
    return Item(fields["index"], fields, where)
