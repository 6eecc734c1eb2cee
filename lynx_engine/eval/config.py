"""What an evaluation run needs to know, from the authors' configuration keys (REFERENCE.md sections 8 and 9)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..config import LynxConfig
from ..errors import LynxError
from ..generate import GenerationConfig
from ..weights import Settings


@dataclass(frozen=True)
class EvalConfig:
    """How questions become prompts, batches and answers.

    vision_key: the field of an item that holds its picture or clip, "image" or "video"; an item may lack it
    (text only). num_frames: frames taken of a clip. padding_side: where short prompts of a batch are padded.
    """

    prompt: str
    lower_text: bool = True
    max_input_tokens: int = 40
    vision_key: str = "image"
    num_frames: int = 5
    batch_size: int = 16
    padding_side: str = "left"
    generation: GenerationConfig = field(default_factory=lambda: GenerationConfig.preset("release"))

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise LynxError(f"batch_size_test must be >= 1, got {self.batch_size}")

    @property
    def release_compat(self) -> bool:
        return self.generation.release_compat

    @classmethod
    def from_authors(
        cls, settings: Settings, model: LynxConfig, *, seed: int, release_compat: bool = False
    ) -> EvalConfig:
        """The authors' keys; what they leave out comes from the model.

        No keys at all mean the released evaluation (LYNX.md section 4).
        """
        chosen: dict[str, Any] = {"seed": seed, "release_compat": release_compat}
        if settings.values:
            generation = GenerationConfig.from_authors(settings.values, **chosen)
        else:
            generation = GenerationConfig.preset("release").replace(**chosen)
        return cls(
            prompt=settings.get("prompt", model.prompt),
            lower_text=settings.get("lower_text", model.lower_text),
            max_input_tokens=settings.get("max_input_tokens", model.max_input_tokens),
            vision_key=settings.get("vision_prompt_dict", "image"),
            num_frames=settings.get("data.num_frames", model.num_frames or 1),
            batch_size=settings.get("batch_size_test", 16),
            padding_side="left" if settings.get("use_left_pad", True) else "right",
            generation=generation,
        )
