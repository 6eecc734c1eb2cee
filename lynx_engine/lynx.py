"""`Lynx`: the model with its tokenizer, from files to answers. What most users import."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from . import media, weights
from .config import LynxConfig
from .errors import LynxError
from .generate import DecoderSession, GenerationConfig, Session, cut_at_stop, held_back, search, stream
from .media import Vision
from .model import LynxModel, LynxOutput
from .text import TextStream, Tokenizer, pad_rows, render

Prompt = str | Sequence[int]
Dtype = torch.dtype | str


@dataclass(frozen=True)
class Answer:
    """One generated text. `token_ids` leave out BOS and EOS; `finish_reason` is "eos", "stop" or "length";
    `score` is the beam's log-probability / length ** length_penalty, None without beams."""

    text: str
    token_ids: list[int]
    finish_reason: str
    score: float | None = None


@dataclass(frozen=True)
class Generation(Sequence[Answer]):
    """Answers in the order of the prompts, `num_return_sequences` of them a prompt.

    `sequences` [answers, width] are the ids with BOS, EOS and padding; `timings` are seconds of encode, prefill and
    decode.
    """

    answers: list[Answer]
    sequences: Tensor
    prompt_tokens: list[int]
    timings: dict[str, float]

    def __getitem__(self, index: Any) -> Any:
        return self.answers[index]

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def texts(self) -> list[str]:
        return [answer.text for answer in self.answers]


class Lynx:
    """A loaded Lynx: `model` (nn.Module), `tokenizer` (None when only tensors were given), `config`.

    Frozen weights in CPU memory are packed for the kernels, in place of those that `model` had (`LynxModel.pack`).
    """

    def __init__(self, model: LynxModel, tokenizer: Tokenizer | None = None) -> None:
        self.model = model.eval().pack()
        self.tokenizer = tokenizer
        self.config: LynxConfig = model.config

    @classmethod
    def load(cls, folder: str | Path, *, dtype: Dtype | None = None, group_size: int | None = None) -> Lynx:
        """Open a folder written by `lynx-engine convert`. `dtype` None keeps the stored one.

        Files are memory-mapped; what the CPU kernels want packed is read and packed tensor by tensor. "int8" and "int4"
        quantise the linears on the way, with `group_size` weights a scale (`ops.quantize_linear`). Of a folder that was
        converted so, codes of joint products (q, k, v; gate, up) are laid together in memory, others stay mapped.
        """
        if dtype not in ("int8", "int4"):
            if group_size is not None:
                raise LynxError(f"group_size is for dtype int8 or int4, got group_size {group_size}, dtype {dtype}")
            return cls(weights.load_folder(folder, _torch_dtype(dtype)), Tokenizer.from_folder(folder))
        wanted, stored = weights.Quantization(str(dtype), group_size), weights.read_quantization(folder)
        if stored is not None and stored != wanted:
            raise LynxError(f"{folder} is stored as {stored}; {wanted} must be made of the model that it was made from")
        model = weights.load_folder(folder)
        model = model if stored is not None else weights.quantize_model(model, wanted)
        return cls(model, Tokenizer.from_folder(folder))

    @classmethod
    def from_release(
        cls,
        *,
        vision: str | Path,
        llm: str | Path,
        checkpoint: str | Path,
        image_size: int | None = None,
        config: Mapping[str, Any] | str | Path | None = None,
        overrides: Sequence[str] = (),
        dtype: Dtype = torch.float32,
        release_compat: bool = False,
    ) -> Lynx:
        """Load the three files of the authors' release directly (REFERENCE.md section 6).

        `config` is the authors' configuration (a mapping, or a YAML or JSON file); `overrides` are "key=value" changes
        to it, and tell what weights cannot, as "vit_num_heads=4".
        """
        release = weights.load_release(
            vision,
            llm,
            checkpoint,
            image_size=image_size,
            config=config,
            overrides=overrides,
            release_compat=release_compat,
        )
        model = release.model(_torch_dtype(dtype) or torch.float32)
        return cls(model, Tokenizer.from_folder(release.tokenizer_folder))

    @classmethod
    def from_state_dict(
        cls, config: LynxConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer | None = None
    ) -> Lynx:
        """A model of `config` around `tensors` (names of REFERENCE.md section 2); one LynxError lists all misfits."""
        with torch.device("meta"):
            model = LynxModel(config)
        return cls(weights.load_tensors_into(model, tensors, dtype=None), tokenizer)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Any) -> LynxOutput:
        """Logits, and the loss where `labels=` is given; see `LynxModel.forward`."""
        return self.model(input_ids, attention_mask, **inputs)

    __call__ = forward

    def prompt(self, question: str) -> str:
        """The text that the model was trained to answer: the configuration's template around the question."""
        return render(self.config.prompt, {"question": question}, lower_text=self.config.lower_text)

    def open(self, files: Sequence[str | Path]) -> Vision:
        """One file as an image or a clip, as its content tells; several are the frames of one clip."""
        if len(files) == 1:
            return media.load_file(files[0], self.config.num_frames)
        return self._clip(files)

    @torch.inference_mode()
    def generate(
        self,
        images: Tensor | Sequence[Any] | None = None,
        videos: Tensor | Sequence[Any] | None = None,
        prompts: Sequence[Prompt] = (),
        config: GenerationConfig | None = None,
        *,
        vision: Tensor | None = None,
        padding_side: str = "left",
        max_input_tokens: int = 0,
    ) -> Generation:
        """Continue every prompt, each behind its own image or video.

        images: paths, PIL images, arrays, bytes, or a tensor [B, 3, S, S] (normalised) or uint8 [B, S, S, 3];
        videos: paths or lists of frames, or a tensor with a frame axis behind B. A batch may mix both: the rows of
        `videos` come first (REFERENCE.md section 9.6). vision: tokens encoded before, instead of both.
        prompts: whole texts (see `prompt`) or token ids with BOS; `max_input_tokens` cuts texts from the left.
        Raises LynxError for what cannot be read and when numbers of rows differ.
        """
        config = config or GenerationConfig()
        clock = _Clock()
        rows = [self._encode(prompt, max_input_tokens, config) for prompt in prompts]
        with clock.measure("encode"):
            vision = vision if vision is not None else self.encode(images, videos)
        session = _Timed(self.session(rows, vision, padding_side=padding_side), clock)
        with clock.measure("decode"):
            output = search(session, config, decode=self._decode, **self._special_tokens)
        clock.seconds["decode"] -= clock.seconds.get("prefill", 0.0)
        answers = [
            Answer(
                cut_at_stop(self._decode(list(a.token_ids)), config.stop).strip(),
                list(a.token_ids),
                a.finish_reason,
                a.score,
            )
            for a in output.answers
        ]
        return Generation(answers, output.sequences, [len(row) for row in rows], clock.seconds)

    def stream(
        self,
        prompt: Prompt,
        config: GenerationConfig | None = None,
        *,
        vision: Tensor | None = None,
        max_input_tokens: int = 0,
    ) -> Iterator[str]:
        """Pieces of one answer as they are generated, never half a UTF-8 character; greedy or sampling.

        `vision` [1, num_latents, H] comes from `encode`, so several questions can share one encoding.
        """
        config = config or GenerationConfig()
        if self.tokenizer is None:
            raise LynxError("streaming text needs a tokenizer; this model was built from tensors only")
        if config.num_beams > 1 or config.num_return_sequences > 1:
            raise LynxError(f"only one answer without beams can stream, got num_beams {config.num_beams}")
        session = self.session([self._encode(prompt, max_input_tokens, config)], vision)
        text, shown = TextStream(self.tokenizer), 0
        for new in stream(session, config, decode=self._decode, **self._special_tokens):
            text.push(new.token_ids)
            settled = len(text.text) - held_back(text.text, config.stop)
            yield text.text[shown:settled]
            shown = max(shown, settled)
        text.finish()
        yield cut_at_stop(text.text, config.stop)[shown:]

    @torch.inference_mode()
    def encode(
        self, images: Tensor | Sequence[Any] | None = None, videos: Tensor | Sequence[Any] | None = None
    ) -> Tensor | None:
        """Vision tokens [B, num_latents, H] of videos, then images; None when there are neither."""
        if images is not None and not isinstance(images, Tensor):
            images = self._stack([media.load_image(image) for image in images])
        if videos is not None and not isinstance(videos, Tensor):
            videos = self._stack([self._clip(video) for video in videos])
        return self.model.encode_mixed(images, videos)

    @torch.inference_mode()
    def encode_rows(self, rows: Sequence[Vision]) -> Tensor:
        """Vision tokens [B, num_latents, H] of images and clips (lists of frames) in any order, kept."""
        clips = [row for row, value in enumerate(rows) if isinstance(value, list)]
        singles = [row for row, value in enumerate(rows) if not isinstance(value, list)]
        images, videos = (self._stack([rows[row] for row in part]) if part else None for part in (singles, clips))
        encoded = self.model.encode_mixed(images, videos)
        if encoded is None:
            raise LynxError("encode_rows wants at least one image or clip")
        return encoded[torch.tensor(clips + singles).argsort()]

    def session(
        self, rows: Sequence[Sequence[int]], vision: Tensor | None, *, padding_side: str = "left"
    ) -> DecoderSession:
        """The decoding state of a padded batch of token rows behind their vision tokens."""
        input_ids, attention_mask = pad_rows(rows, self.config.llm.pad_token_id, padding_side)
        num_vision_tokens = 0 if vision is None else vision.shape[1]
        attention_mask = F.pad(attention_mask, (num_vision_tokens, 0), value=1)
        with torch.inference_mode():
            return DecoderSession(self.model, self.model.embed(input_ids, vision), attention_mask, num_vision_tokens)

    @property
    def _special_tokens(self) -> dict[str, Any]:
        llm = self.config.llm
        return {name: getattr(llm, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}

    def _encode(self, prompt: Prompt, max_input_tokens: int, config: GenerationConfig) -> list[int]:
        if not isinstance(prompt, str):
            return list(prompt)
        if self.tokenizer is None:
            raise LynxError("a text prompt needs a tokenizer; this model was built from tensors only: give token ids")
        return self.tokenizer.encode(prompt, max_tokens=max_input_tokens, release_compat=config.release_compat)

    def _decode(self, token_ids: list[int]) -> str:
        return "" if self.tokenizer is None else self.tokenizer.decode(token_ids)

    def _clip(self, video: Any) -> list[Image.Image]:
        """As many frames as the model takes, of a file or of a list of frames."""
        num_frames = self.config.num_frames
        if num_frames is None:
            raise LynxError("this model takes images only: its configuration has num_frames = None")
        if not isinstance(video, (list, tuple)):
            return media.load_video(video, num_frames)
        return [media.load_image(video[i]) for i in media.sample_frame_ids(len(video), num_frames)]

    def _stack(self, rows: Sequence[Vision]) -> Tensor:
        """Normalised pixels [B, 3, S, S] of images, [B, F, 3, S, S] of clips."""
        return torch.stack([self._stack(row) if isinstance(row, list) else self._preprocess(row) for row in rows])

    def _preprocess(self, image: Image.Image) -> Tensor:
        vision = self.config.vision
        return media.preprocess(image, vision.image_size, vision.image_mean, vision.image_std)


def _torch_dtype(dtype: Dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in ("float32", "bfloat16"):
        raise LynxError(f"dtype must be float32 or bfloat16 (int8 or int4 for a folder), got {dtype!r}")
    return torch.float32 if dtype == "float32" else torch.bfloat16


class _Clock:
    """Seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


class _Timed:
    """A session whose prefill is timed."""

    def __init__(self, session: Session, clock: _Clock) -> None:
        self.session = session
        self.clock = clock

    @property
    def batch_size(self) -> int:
        return self.session.batch_size

    def prefill(self) -> Tensor:
        with self.clock.measure("prefill"):
            return self.session.prefill()

    def step(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
        return self.session.step(tokens, parents)
