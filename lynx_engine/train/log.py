"""A loss log as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType


class LossLog:
    """Means of the losses since the last line, one line {"step", "loss", "lr"} a flush.

    Lines of steps from `first_step` on, left by a run that is continued from an older checkpoint, are dropped.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] < first_step]
        path.write_text("".join(line + "\n" for line in kept))
        self.mean = float("nan")
        self._file = path.open("a", encoding="utf-8")
        self._losses: list[float] = []

    def add(self, step: int, loss: float, rate: float, *, flush: bool) -> None:
        self._losses.append(loss)
        if flush:
            self.mean = sum(self._losses) / len(self._losses)
            self._losses.clear()
            self._file.write(json.dumps({"step": step, "loss": round(self.mean, 6), "lr": rate}) + "\n")
            self._file.flush()

    def __enter__(self) -> LossLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
