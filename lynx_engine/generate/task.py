"""The fixed part of one search, handed to the loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .config import GenerationConfig
from .draws import Draw
from .stop import StopStrings

# (processed scores [R, V], row numbers [R] of the whole batch, beams counted): called once a step
OnScores = Callable[[Tensor, list[int]], None]


@dataclass(frozen=True)
class Task:
    config: GenerationConfig
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    draw: Draw
    stop: StopStrings | None = None
    on_scores: OnScores | None = None

    def upcast(self, logits: Tensor) -> Tensor:
        """Half-precision logits in float32, except where the authors' stack is to be reproduced."""
        half = logits.element_size() < 4 and not self.config.release_compat
        return logits.float() if half else logits

    def finish_reason(self, token: int, token_ids: list[int]) -> str | None:
        """Why an answer of `token_ids` (its newest `token` included, unless that is EOS) ends here, if it does."""
        if token == self.eos_token_id:
            return "eos"
        if self.stop is not None and self.stop.reached(token_ids):
            return "stop"
        return None
