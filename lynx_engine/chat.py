"""Many questions about one picture: it is encoded once, and the rounds before are the context of the next."""

from __future__ import annotations

from collections.abc import Iterator

from .errors import LynxError
from .generate import GenerationConfig
from .lynx import Lynx
from .media import Vision
from .text import encode_chat

DESCRIBE = "describe the image in detail"


class Conversation:
    """A multi-turn chat about `vision`, a picture or a clip as `Lynx.open` gives it (None: text only).

    `rounds` holds the finished (question, answer) pairs. Prompts longer than `max_input_tokens` lose their oldest
    rounds; the default is what the model's positions hold beside the vision tokens and the answer.
    """

    def __init__(
        self,
        lynx: Lynx,
        vision: Vision | None = None,
        config: GenerationConfig | None = None,
        max_input_tokens: int | None = None,
    ) -> None:
        if lynx.tokenizer is None:
            raise LynxError("a conversation needs a tokenizer; this model was built from tensors only")
        self.lynx = lynx
        self.tokenizer = lynx.tokenizer
        self.config = config or GenerationConfig()
        self.vision = None if vision is None else lynx.encode_rows([vision])
        self.rounds: list[tuple[str, str]] = []
        vision_tokens = 0 if self.vision is None else self.vision.shape[1]
        room = lynx.config.llm.max_position_embeddings - vision_tokens - self.config.max_new_tokens
        self.max_input_tokens = max(room, 1) if max_input_tokens is None else max_input_tokens

    def describe(self) -> Iterator[str]:
        """The round 0 of LYNX.md section 4: a detailed description, which later questions build on."""
        return self.ask(DESCRIBE)

    def ask(self, question: str) -> Iterator[str]:
        """Pieces of the answer as they come; the round is remembered when the answer is complete."""
        config = self.lynx.config
        prompt = encode_chat(
            self.tokenizer,
            self.rounds,
            question,
            max_tokens=self.max_input_tokens,
            lower_text=config.lower_text,
            template=config.prompt,
        )
        pieces = []
        for piece in self.lynx.stream(prompt, self.config, vision=self.vision):
            pieces.append(piece)
            yield piece
        self.rounds.append((question, "".join(pieces).strip()))
