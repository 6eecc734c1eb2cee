"""Model configuration: frozen dataclasses that check themselves, presets, and JSON in and out.

Names follow LLaMA's and ViT's usual vocabulary; the authors' YAML keys are translated in `weights/`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import LynxError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise LynxError(message)


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _check(value > 0, f"{type(config).__name__}.{name} must be positive, got {value!r}")


def _check_heads(config: Any) -> None:
    _check(
        config.hidden_size % config.num_heads == 0,
        f"{type(config).__name__}: hidden_size {config.hidden_size} is not a multiple of num_heads {config.num_heads}",
    )


@dataclass(frozen=True)
class VisionConfig:
    """EVA-CLIP ViT. Defaults are ViT-g/14 at 420 px (Lynx-8B); `image_size` is one side of the square in pixels."""

    image_size: int = 420
    patch_size: int = 14
    hidden_size: int = 1408
    num_layers: int = 39
    num_heads: int = 16
    intermediate_size: int = 6144
    layer_norm_eps: float = 1e-6
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        _check_positive(self, "image_size", "patch_size", "hidden_size", "num_layers", "num_heads", "intermediate_size")
        _check_heads(self)
        _check(
            self.image_size % self.patch_size == 0,
            f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}",
        )

    @property
    def grid_size(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Patches plus the class token."""
        return self.grid_size**2 + 1

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class BridgeConfig:
    """Perceiver resampler between the vision encoder and the LLM; its width is the LLM's."""

    num_layers: int = 3
    num_latents: int = 32
    num_heads: int = 8
    head_dim: int = 64
    ff_mult: int = 4
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        _check_positive(self, "num_layers", "num_latents", "num_heads", "head_dim", "ff_mult")


@dataclass(frozen=True)
class LlamaConfig:
    """LLaMA decoder. `vocab_size` counts every row of the embedding, the added pad token included."""

    vocab_size: int = 32001
    hidden_size: int = 4096
    num_layers: int = 32
    num_heads: int = 32
    intermediate_size: int = 11008
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 32000

    def __post_init__(self) -> None:
        _check_positive(self, "vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size")
        _check_heads(self)
        _check(self.head_dim % 2 == 0, f"LlamaConfig: rotary embedding needs an even head_dim, got {self.head_dim}")
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(self, name)
            _check(0 <= value < self.vocab_size, f"LlamaConfig.{name} {value} is outside vocab_size {self.vocab_size}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class LynxConfig:
    """The whole model.

    `adapter_freq` k puts an adapter after layers 0, k, 2k, ...; None means no adapters (LYNX.md section 1).
    `num_frames` is the length of `absolute_frame_pos_embed`; None: the model takes images only.
    `prefix_attention` "causal" is Lynx; "bidirectional" lets vision tokens see each other fully (PrefixLM).
    `prompt`, `lower_text`, `max_input_tokens` are how a question becomes text (LYNX.md section 3).
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    llm: LlamaConfig = field(default_factory=LlamaConfig)
    adapter_freq: int | None = 2
    num_frames: int | None = 5
    prefix_attention: str = "causal"
    prompt: str = "User: {question}\nBot:"
    lower_text: bool = True
    max_input_tokens: int = 40
    name: str = "lynx_8b"

    def __post_init__(self) -> None:
        _check(
            self.adapter_freq is None or self.adapter_freq >= 1,
            f"adapter_freq must be >= 1 or None, got {self.adapter_freq}",
        )
        _check(
            self.num_frames is None or self.num_frames >= 1, f"num_frames must be >= 1 or None, got {self.num_frames}"
        )
        _check(
            self.prefix_attention in ("causal", "bidirectional"),
            f"prefix_attention must be 'causal' or 'bidirectional', got {self.prefix_attention!r}",
        )

    @property
    def adapter_layers(self) -> tuple[int, ...]:
        """Indices of the decoder layers that carry an adapter."""
        return () if self.adapter_freq is None else tuple(range(0, self.llm.num_layers, self.adapter_freq))

    def replace(self, **changes: Any) -> LynxConfig:
        """A copy with fields changed; `vision=`, `bridge=` and `llm=` also take a dict of their own changes."""
        parts = {
            key: dataclasses.replace(getattr(self, key), **value)
            for key, value in changes.items()
            if isinstance(value, dict)
        }
        return dataclasses.replace(self, **{**changes, **parts})

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "config") -> LynxConfig:
        """Inverse of `to_dict`; an unknown key or a value of the wrong type is a LynxError naming it."""
        parts: dict[str, type] = {"vision": VisionConfig, "bridge": BridgeConfig, "llm": LlamaConfig}
        given = dict(values)
        for key, part in parts.items():
            if key in given:
                given[key] = _build(part, given[key], f"{where}.{key}")
        return _build(cls, given, where)

    @classmethod
    def from_json(cls, path: str | Path) -> LynxConfig:
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise LynxError(f"{path}: cannot be read as a JSON configuration: {error}") from error
        return cls.from_dict(values, where=str(path))

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def preset(cls, name: str) -> LynxConfig:
        """A named configuration: lynx_8b (alias lynx_7b), lynx_13b, lynx_30b, lynx_65b, demo."""
        if name not in PRESETS:
            raise LynxError(f"unknown preset {name!r}; presets: {', '.join(PRESETS)}")
        return PRESETS[name]


_ACCEPTED: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "int | None": (int, type(None)),
    "tuple[float, float, float]": (list, tuple),
}


def _build(cls: type, values: Any, where: str) -> Any:
    if isinstance(values, cls):
        return values
    _check(isinstance(values, Mapping), f"{where}: wanted an object, got {type(values).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    _check(not unknown, f"{where}: unknown key(s) {', '.join(unknown)}; known: {', '.join(fields)}")
    checked = {}
    for key, value in values.items():
        wanted = str(fields[key].type)
        kinds = _ACCEPTED.get(wanted)
        fits = kinds is None or (isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds))
        _check(fits, f"{where}.{key}: wanted {wanted}, got {value!r}")
        checked[key] = tuple(value) if isinstance(value, list) else value
    return cls(**checked)


def _llama(name: str, hidden_size: int, num_layers: int, num_heads: int, intermediate_size: int) -> LynxConfig:
    llm = LlamaConfig(
        hidden_size=hidden_size, num_layers=num_layers, num_heads=num_heads, intermediate_size=intermediate_size
    )
    return LynxConfig(name=name, llm=llm)


PRESETS: dict[str, LynxConfig] = {
    "lynx_8b": LynxConfig(),
    "lynx_7b": LynxConfig(),
    "lynx_13b": _llama("lynx_13b", 5120, 40, 40, 13824),
    "lynx_30b": _llama("lynx_30b", 6656, 60, 52, 17920),
    "lynx_65b": _llama("lynx_65b", 8192, 80, 64, 22016),
    "demo": LynxConfig(
        vision=VisionConfig(
            image_size=64, patch_size=8, hidden_size=192, num_layers=4, num_heads=6, intermediate_size=768
        ),
        bridge=BridgeConfig(num_layers=3, num_latents=32),
        llm=LlamaConfig(
            vocab_size=640,
            hidden_size=192,
            num_layers=4,
            num_heads=6,
            intermediate_size=512,
            max_position_embeddings=512,
            rope_theta=1e6,
            pad_token_id=639,
        ),
        adapter_freq=1,
        name="demo",
    ),
}
