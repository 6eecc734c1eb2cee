"""The model that bench.e2e measures, and its inputs: a preset at full or at part depth, made in place."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lynx_engine.config import PRESETS, LynxConfig
from lynx_engine.demo import weights_folder
from lynx_engine.errors import LynxError
from lynx_engine.model import LynxModel, init_parameters
from lynx_engine.weights import count_parameters, load_folder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_ROOM = 3 << 29  # 1.5 GiB for Python, torch and activations
_GRADIENT_AND_MOMENTS = 3
_DECODE_POSITIONS = 32 * 192  # the largest batch of the decode part, with the spare room of the cache
_PICTURE_SIZE = (640, 480)


@dataclass(frozen=True)
class Subject:
    """One model and the inputs of every part; the same seed gives the same numbers."""

    preset: str
    model: LynxModel
    dtype: str
    device: str

    @property
    def config(self) -> LynxConfig:
        return self.model.config

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    def pixels(self, batch: int) -> Tensor:
        """Noise as uint8 [B, S, S, 3]."""
        side = self.config.vision.image_size
        return torch.randint(256, (batch, side, side, 3), dtype=torch.uint8, generator=_generator()).to(self.device)

    def picture(self) -> Image.Image:
        """Noise as a photograph that has been decoded and not yet resized."""
        width, height = _PICTURE_SIZE
        return Image.fromarray(np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8))

    def token_ids(self, batch: int, length: int) -> Tensor:
        """Text of the vocabulary without its special tokens, int64 [B, T]."""
        ids = torch.randint(3, self.config.llm.vocab_size - 1, (batch, length), generator=_generator())
        return ids.to(self.device)

    def embeddings(self, positions: int) -> Tensor:
        """[1, S, H]: the vision tokens of one image, then text."""
        num_latents = self.config.bridge.num_latents
        if positions <= num_latents:
            raise ValueError(f"{positions} positions leave no text behind {num_latents} vision tokens")
        with torch.inference_mode():
            return self.model.embed(self.token_ids(1, positions - num_latents), self._vision_tokens)

    @functools.cached_property
    def _vision_tokens(self) -> Tensor:
        return self.model.encode_images(self.pixels(1))


def load_subject(preset: str, dtype: str, device: str, parts: tuple[str, ...]) -> Subject:
    """The model of `preset`, which is a name, or NAME/N for every Nth layer of ViT and LLM at full widths.

    demo has its shipped weights, all others random ones. LynxError where memory is too small for `parts`.
    """
    if dtype not in DTYPES:
        raise LynxError(f"unknown dtype {dtype!r}; dtypes: {', '.join(DTYPES)}")
    if device not in ("cpu", "cuda"):
        raise LynxError(f"unknown device {device!r}; devices: cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise LynxError("device cuda: torch finds no GPU here; devices: cpu")
    config = preset_config(preset)
    _check_memory(config, preset, dtype, device, parts)
    model = _shipped(dtype) if preset == "demo" else _random(config, DTYPES[dtype], device)
    return Subject(preset, model.to(device).eval().pack(), dtype, device)


def preset_config(preset: str) -> LynxConfig:
    """The configuration of NAME or NAME/N; depths are divided and rounded up."""
    name, slash, divisor = preset.partition("/")
    if name not in PRESETS or (slash and (not divisor.isdecimal() or int(divisor) < 1)):
        wanted = f"{', '.join(PRESETS)}; each also at part depth, as lynx_8b/8"
        raise LynxError(f"unknown preset {preset!r}; presets: {wanted}")
    config, n = PRESETS[name], int(divisor or 1)
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, num_layers=-(-config.vision.num_layers // n)),
        llm=dataclasses.replace(config.llm, num_layers=-(-config.llm.num_layers // n)),
    )


def _shipped(dtype: str) -> LynxModel:
    """The demo model, in memory of its own: the training step may not write to the mapped files."""
    model = load_folder(weights_folder(), DTYPES[dtype])
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def _random(config: LynxConfig, dtype: torch.dtype, device: str) -> LynxModel:
    with torch.device("meta"):
        model = LynxModel(config).to(dtype)
    model.to_empty(device=device)
    init_parameters(model)
    return model


def _check_memory(config: LynxConfig, preset: str, dtype: str, device: str, parts: tuple[str, ...]) -> None:
    counts, itemsize = count_parameters(config), DTYPES[dtype].itemsize
    weights = itemsize * counts.total
    cache = itemsize * 2 * config.llm.num_layers * config.llm.hidden_size * _DECODE_POSITIONS
    training = itemsize * _GRADIENT_AND_MOMENTS * counts.trained
    extra = max(training if "train" in parts else 0, cache if "decode" in parts else 0)
    what = f"{preset} in {dtype} ({weights / 2**30:.1f} GiB of weights, {extra / 2**30:.1f} for {', '.join(parts)})"
    require_memory(
        weights + extra + _ROOM, device, what, "a part of the depth (as lynx_8b/8), bfloat16, or fewer parts"
    )


def require_memory(needed: int, device: str, what: str, instead: str) -> None:
    """LynxError where fewer than `needed` bytes are free: it names `what` wants them, and what to take `instead`."""
    available = _available_bytes(device)
    if needed > available:
        sizes = f"needs about {needed / 2**30:.1f} GiB, {available / 2**30:.1f} are free"
        raise LynxError(f"{what} {sizes}: take {instead}")


def _available_bytes(device: str) -> int:
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    raise LynxError("/proc/meminfo does not tell MemAvailable")


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
