"""`finetune_lynx.pt`: names of the trained tensors, and what a missing one starts from (REFERENCE.md section 6)."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from ..config import BridgeConfig
from ..errors import LynxError
from .files import Source, TensorFile, num_layers
from .settings import Settings

BRIDGE = "bridge."
ADAPTER = ".output_adapter."
FRAMES = "absolute_frame_pos_embed"
_STD = 0.02


def model_name(name: str, release_compat: bool) -> str:
    """The name without its `model.` prefixes.

    The authors strip any leading run of the characters in "model." instead; `release_compat` does that too.
    """
    return name.lstrip("model.") if release_compat else re.sub(r"^(model\.)+", "", name)


def trained_sources(file: TensorFile, release_compat: bool) -> dict[str, Source]:
    """Sources by model name; where two stored names fall together, the later one counts, as in the authors' loop."""
    return {model_name(name, release_compat): Source.of(file, name) for name in file.shapes}


def bridge_config(sources: Mapping[str, Source], settings: Settings) -> BridgeConfig:
    """Sizes from `settings` where they are given, else from the tensors, else Lynx-8B's."""
    default = BridgeConfig()

    def stored(name: str) -> tuple[int, ...]:
        """Shape of a matrix of the bridge; zeros where there is none."""
        shape = sources[BRIDGE + name].shape if BRIDGE + name in sources else ()
        return shape if len(shape) == 2 else (0, 0)

    inner = stored("layers.0.0.to_q.weight")[0]
    ff_out, ff_in = stored("layers.0.1.1.weight")
    num_heads = settings.get("bridge_num_heads", inner // default.head_dim or default.num_heads)
    return BridgeConfig(
        num_layers=settings.get("bridge_depth", num_layers(sources, BRIDGE + "layers.") or default.num_layers),
        num_latents=settings.get("num_bridge_tokens", stored("latents")[0] or default.num_latents),
        num_heads=num_heads,
        head_dim=inner // num_heads if 0 < num_heads <= inner else default.head_dim,
        ff_mult=ff_out // ff_in if 0 < ff_in <= ff_out else default.ff_mult,
    )


def adapter_freq(sources: Mapping[str, Source], settings: Settings, depth: int) -> int | None:
    """`adapter_freq` of the settings; where they are silent, of the layers whose adapters the checkpoint holds."""
    if settings.get("use_adapter") is False:
        return None
    if "adapter_freq" in settings:
        return int(settings.get("adapter_freq"))
    pattern = re.compile(r"LLM\.model\.layers\.(\d+)\.output_adapter\.adapter_down\.weight")
    layers = sorted(int(found[1]) for name in sources if (found := pattern.fullmatch(name)))
    if not layers:
        return None
    freq = layers[1] - layers[0] if len(layers) > 1 else depth
    if layers != list(range(0, depth, freq)):
        raise LynxError(f"adapters are at layers {layers} of {depth}: not every k-th; give --set adapter_freq=K")
    return freq


def num_frames(sources: Mapping[str, Source], settings: Settings) -> int | None:
    """Length of the frame position embedding; None where the model takes images only."""
    encoding = settings.values.get("video_encoding", "concate")
    if encoding not in ("concate", "", None):
        raise LynxError(f"{settings.where}: video_encoding: wanted 'concate' or nothing, got {encoding!r}")
    if not encoding:
        return None
    frames: int | None = settings.get("data.num_frames")
    if frames is None and FRAMES in sources:
        shape = sources[FRAMES].shape
        if len(shape) != 4:
            raise LynxError(f"{sources[FRAMES].origin}: got {list(shape)}, wanted [1, frames, 1, width]")
        return shape[1]
    return frames


def initial_value(name: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """The float32 start of the trained tensor `name`; it depends on `name` and `seed` only.

    Norm weights and adapter scalings 1, biases 0, latents N(0, 1), adapter linears and frame positions N(0, 0.02),
    bridge linears uniform in +-1/sqrt(fan_in).
    """
    generator = torch.Generator().manual_seed(seed * 2**32 + zlib.crc32(name.encode()))
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    if name == "bridge.latents":
        return torch.randn(shape, generator=generator)
    if name.startswith(BRIDGE):
        bound = 1 / math.sqrt(shape[-1])
        return torch.rand(shape, generator=generator) * (2 * bound) - bound
    return torch.randn(shape, generator=generator) * _STD
