"""The entry points: `search` for whole answers, `stream` for tokens as they come."""

from __future__ import annotations

from collections.abc import Generator

from ..errors import LynxError
from .beam import beam_search
from .config import GenerationConfig
from .draws import Draw, make_draw
from .hypotheses import GenerationOutput, NewTokens
from .sample import sample
from .session import Session
from .stop import Decode, StopStrings
from .task import OnScores, Task


def stream(
    session: Session,
    config: GenerationConfig,
    *,
    bos_token_id: int,
    eos_token_id: int,
    pad_token_id: int,
    decode: Decode | None = None,
    draw: Draw | None = None,
    on_scores: OnScores | None = None,
) -> Generator[NewTokens, None, GenerationOutput]:
    """Yield new tokens of each answer as they are settled; the generator's return value is the whole output.

    With one beam a token is settled at once; with more, an answer is settled when its row is done.
    decode: text of token ids, needed for stop strings. draw: replaces the random draws (see `draws.Draw`).
    on_scores: sees the processed scores of every step (see `task.OnScores`).
    """
    if config.stop and decode is None:
        raise LynxError(f"stop strings {list(config.stop)} need decode=, the text of token ids")
    stop = StopStrings(config.stop, decode) if config.stop and decode is not None else None
    draw = draw or make_draw(config, session.batch_size)
    task = Task(config, bos_token_id, eos_token_id, pad_token_id, draw, stop, on_scores)
    loop = sample if config.num_beams == 1 else beam_search
    answers = (yield from loop(session, task)) if session.batch_size else []
    return GenerationOutput(tuple(answers), bos_token_id, eos_token_id, pad_token_id)


def search(
    session: Session,
    config: GenerationConfig,
    *,
    bos_token_id: int,
    eos_token_id: int,
    pad_token_id: int,
    decode: Decode | None = None,
    draw: Draw | None = None,
    on_scores: OnScores | None = None,
) -> GenerationOutput:
    """`num_return_sequences` answers for every row of the session; arguments as in `stream`."""
    steps = stream(
        session,
        config,
        bos_token_id=bos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        decode=decode,
        draw=draw,
        on_scores=on_scores,
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            output: GenerationOutput = end.value
            return output
