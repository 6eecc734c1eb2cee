"""A result file that a killed run can continue: whole batches are synced to OUT.partial, then renamed to OUT."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from ..errors import LynxError


class ResultFile:
    """`done` results are already on disk; `append` adds a batch; `finish` puts the file in its place.

    The first line of OUT.partial names the run, so that results of other settings are never mixed in.
    """

    def __init__(self, out: Path, run: dict[str, Any]) -> None:
        self.out = out
        self.partial = out.with_name(out.name + ".partial")
        self._header = json.dumps({"run": run}, sort_keys=True)
        self.results = self._recover()
        try:
            _replace(self.partial, [self._header, *self.results])
            self._file = self.partial.open("a", encoding="ascii")
        except OSError as error:
            raise LynxError(f"{self.partial}: cannot be written: {error}") from error

    @property
    def done(self) -> int:
        return len(self.results)

    def append(self, results: list[dict[str, Any]]) -> None:
        lines = [json.dumps(result) for result in results]
        _write(self._file, lines)
        self.results += lines

    def finish(self) -> None:
        self._file.close()
        _replace(self.out, self.results)
        self.partial.unlink()

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _recover(self) -> list[str]:
        """Whole lines of an interrupted run; a line cut short by the interruption is dropped."""
        if not self.partial.exists():
            return []
        text = self.partial.read_text(encoding="ascii", errors="replace")
        header, *lines = text[: text.rfind("\n") + 1].splitlines() or [""]
        if header and header != self._header:
            raise LynxError(
                f"{self.partial} holds an interrupted run with other settings: finish that one or delete it"
            )
        return lines


def _write(file: TextIO, lines: list[str]) -> None:
    file.writelines(line + "\n" for line in lines)
    file.flush()
    os.fsync(file.fileno())


def _replace(path: Path, lines: list[str]) -> None:
    """Write a whole file under a temporary name and put it in its place."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="ascii") as file:
        _write(file, lines)
    temporary.replace(path)
