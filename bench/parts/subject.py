"""The model that bench.e2e measures, and its inputs: a preset at full or at part depth, made in place."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.flops import Stored
from bench.row import NO_ADAPTERS, QUANTIZED
from lynx_engine import Lynx
from lynx_engine.config import PRESETS, LynxConfig
from lynx_engine.demo import weights_folder
from lynx_engine.errors import LynxError
from lynx_engine.model import LynxModel, init_parameters
from lynx_engine.model.decoder import LlamaLayer
from lynx_engine.weights import Quantization, count_parameters, load_folder, quantize_model
from lynx_engine.weights.quantized import linears

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_ROOM = 3 << 29  # 1.5 GiB for Python, torch and activations
_GRADIENT_AND_MOMENTS = 3
_DECODE_POSITIONS = 32 * 192  # the largest batch of the decode part, with the spare room of the cache
_SPREAD_OF_CODES = 70.0  # standard deviation of uniform codes: 73.6 with 8 bits, 65.9 with 4
_PICTURE_SIZE = (640, 480)


@dataclass(frozen=True)
class Subject:
    """One model and the inputs of every part; the same seed gives the same numbers."""

    preset: str
    model: LynxModel
    dtype: str
    device: str
    quantize: str | None = None

    @property
    def config(self) -> LynxConfig:
        return self.model.config

    @property
    def name(self) -> str:
        """The preset, and what was left out of it: how the cases of its rows begin."""
        left_out = PRESETS[self.preset.partition("/")[0]].adapter_layers and not self.config.adapter_layers
        return f"{self.preset} {NO_ADAPTERS}" if left_out else self.preset

    @property
    def form(self) -> str:
        """What most weights are stored as."""
        return self.quantize or self.dtype

    @property
    def stored(self) -> Stored:
        return Stored(DTYPES[self.dtype].itemsize, self.quantize)

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


def load_subject(
    preset: str,
    dtype: str,
    device: str,
    parts: tuple[str, ...],
    *,
    adapters: bool = True,
    quantize: str | None = None,
) -> Subject:
    """The model of `preset`, which is a name, or NAME/N for every Nth layer of ViT and LLM at full widths.

    demo has its shipped weights, all others random ones. `quantize` "int8" or "int4": as `Lynx.load(dtype=...)` has
    them. LynxError where memory is too small for `parts`.
    """
    if dtype not in DTYPES:
        raise LynxError(f"unknown dtype {dtype!r}; dtypes: {', '.join(DTYPES)}")
    if device not in ("cpu", "cuda"):
        raise LynxError(f"unknown device {device!r}; devices: cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise LynxError("device cuda: torch finds no GPU here; devices: cpu")
    if quantize is not None and (quantize not in QUANTIZED or dtype != "bfloat16" or device != "cpu"):
        raise LynxError(
            f"quantize is {' or '.join(QUANTIZED)}, of bfloat16 on the cpu; got {quantize}, {dtype}, {device}"
        )
    config = preset_config(preset)
    config = config if adapters else config.replace(adapter_freq=None)
    stored = Stored(DTYPES[dtype].itemsize, quantize)
    _check_memory(config, f"{preset} in {quantize or dtype}", stored, device, parts)
    if preset == "demo":
        model = _shipped(config, DTYPES[dtype], quantize).to(device)
    else:
        model = _random(config, DTYPES[dtype], quantize, device)
    return Subject(preset, Lynx(model).model, dtype, device, quantize)  # as Lynx prepares what it loads


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


def _shipped(config: LynxConfig, dtype: torch.dtype, quantize: str | None) -> LynxModel:
    """The demo model, in memory of its own: the training step may not write to the mapped files."""
    model = load_folder(weights_folder(), dtype)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    if not config.adapter_layers:
        model.config = config
        for layer in cast("list[LlamaLayer]", list(model.LLM.model.layers)):
            layer.output_adapter = None
    return model if quantize is None else quantize_model(model, Quantization(quantize))


def _random(config: LynxConfig, dtype: torch.dtype, quantize: str | None, device: str) -> LynxModel:
    """Made in place. What is quantised is drawn as codes, and never takes the memory of numbers.

    Codes are uniform, scales such that outputs are about as large as inputs, and of either sign: where all codes had
    one, llama.cpp's rounding of them to its 16 levels had one too, and behind 288 positions no logit was left alike.
    """
    with torch.device("meta"):
        model = LynxModel(config).to(dtype)
    if quantize is not None:
        Quantization(quantize).hold(model)
    model.to_empty(device=device)
    init_parameters(model)
    generator = _generator()
    for _, linear in linears(model):
        if linear.codes is not None and linear.scales is not None:
            linear.codes.random_(1, 256, generator=generator)  # 8 bits: 128 +- 127; of 4 bits every byte is two codes
            signs = torch.randint(2, linear.scales.shape, generator=generator) * 2 - 1
            linear.scales.copy_(signs * (linear.in_features**-0.5 / _SPREAD_OF_CODES))
    return model


def _check_memory(config: LynxConfig, what: str, stored: Stored, device: str, parts: tuple[str, ...]) -> None:
    weights = sum(stored.bytes_of(config).values())
    cache = stored.itemsize * 2 * config.llm.num_layers * config.llm.hidden_size * _DECODE_POSITIONS
    training = stored.itemsize * _GRADIENT_AND_MOMENTS * count_parameters(config).trained
    extra = max(training if "train" in parts else 0, cache if "decode" in parts else 0)
    what = f"{what} ({weights / 2**30:.1f} GiB of weights, {extra / 2**30:.1f} for {', '.join(parts)})"
    less = "a part of the depth (as lynx_8b/8), fewer bits, or fewer parts"
    require_memory(weights + extra + _ROOM, device, what, less)


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
