"""`eva_vit_g.pth` to the names and shapes of `vision_encoder` (REFERENCE.md section 6.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import CLIP_MEAN, CLIP_STD, VisionConfig
from ..errors import LynxError
from .files import Source, TensorFile, num_layers
from .settings import Settings

PREFIX = "vision_encoder."
_TELLING = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight")  # sizes are read from these
_OUTPUT_STAGE = ("norm.weight", "fc_norm.weight", "head.weight")
_VIT_G = VisionConfig()


def vision_config(file: TensorFile, settings: Settings) -> VisionConfig:
    """The encoder's sizes: from the weights, and from `settings` what weights cannot tell.

    Of ViT-g, the authors' encoder, Lynx uses 39 blocks of 40, 16 heads, and 420 px. Of another file with an output
    stage (final norm, head) it leaves the last block unused likewise; a file without one was cut to what is used.
    `vit_depth`, `vit_num_heads` and `image_res` go before that.
    """
    missing = [name for name in _TELLING if name not in file.shapes]
    if missing:
        got = ", ".join([*file.shapes, *file.others][:4]) or "nothing"
        raise LynxError(f"{file.path}: lacks {', '.join(missing)}; wanted EVA's flat dict of tensors, got {got}")
    projection, fc1 = file.shapes["patch_embed.proj.weight"], file.shapes["blocks.0.mlp.fc1.weight"]
    if len(projection) != 4 or len(fc1) != 2:
        wanted = f"wanted [width, 3, patch, patch] and [mlp, width], got {list(projection)} and {list(fc1)}"
        raise LynxError(f"{file.path}: patch_embed.proj.weight and blocks.0.mlp.fc1.weight: {wanted}")
    width, patch_size = projection[0], projection[-1]
    is_vit_g = width == _VIT_G.hidden_size
    heads = settings.get("vit_num_heads", _VIT_G.num_heads if is_vit_g else None)
    if heads is None:
        raise LynxError(
            f"{file.path}: weights do not tell how many heads a vision encoder of width {width} has; "
            "give it with --set vit_num_heads=N"
        )
    return VisionConfig(
        image_size=settings.get("image_res", _VIT_G.image_size if is_vit_g else _grid(file) * patch_size),
        patch_size=patch_size,
        hidden_size=width,
        num_layers=settings.get("vit_depth", _VIT_G.num_layers if is_vit_g else _depth(file)),
        num_heads=heads,
        intermediate_size=fc1[0],
        image_mean=_triple(settings, "image_mean", CLIP_MEAN),
        image_std=_triple(settings, "image_std", CLIP_STD),
    )


def _depth(file: TensorFile) -> int:
    blocks = num_layers(file.shapes, "blocks.")
    has_output_stage = any(name in file.shapes for name in _OUTPUT_STAGE)
    return blocks - 1 if has_output_stage and blocks > 1 else blocks


def _triple(settings: Settings, key: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
    values = settings.get(key, default)
    if len(values) != 3 or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        raise LynxError(f"{settings.where}: {key}: wanted three numbers, got {values!r}")
    return (float(values[0]), float(values[1]), float(values[2]))


def vision_sources(file: TensorFile, config: VisionConfig) -> dict[str, Source]:
    """Sources by `vision_encoder.*` name: qkv cut in thirds, its biases renamed, positions resized where needed."""
    sources: dict[str, Source] = {}
    for name in file.shapes:
        source = Source.of(file, name)
        stem, _, last = name.rpartition("attn.")
        if last == "qkv.weight":
            sources |= {f"{PREFIX}{stem}attn.{part}_proj.weight": _third(source, i) for i, part in enumerate("qkv")}
        elif last in ("q_bias", "v_bias"):
            sources[f"{PREFIX}{stem}attn.{last[0]}_proj.bias"] = source
        elif name == "pos_embed":
            sources[PREFIX + name] = _resized_positions(source, file, config)
        else:
            sources[PREFIX + name] = source
    return sources


def _third(source: Source, index: int) -> Source:
    rows, *rest = source.shape
    if rows % 3:
        return source  # reported as a misfit
    return source.changed((rows // 3, *rest), lambda stored: stored.chunk(3)[index])


def _grid(file: TensorFile) -> int:
    """Side of the square that the file's position embedding covers."""
    shape = file.shapes["pos_embed"]
    side = math.isqrt(max(shape[1] - 1, 0)) if len(shape) == 3 else 0
    if side < 1 or side * side + 1 != shape[1]:
        raise LynxError(f"{file.path}: pos_embed: wanted [1, 1 + g*g, width], got {list(shape)}")
    return side


def _resized_positions(source: Source, file: TensorFile, config: VisionConfig) -> Source:
    grid = config.grid_size
    if _grid(file) == grid:
        return source
    shape = (source.shape[0], config.num_tokens, source.shape[2])
    return source.changed(shape, lambda stored: resize_positions(stored, grid))


def resize_positions(pos_embed: Tensor, grid: int) -> Tensor:
    """[1, 1 + g*g, D] -> float32 [1, 1 + grid*grid, D]: bicubic (a = -0.75, no antialias); the class row is kept."""
    cls_row, patches = pos_embed[:, :1].float(), pos_embed[:, 1:].float()
    side = math.isqrt(patches.shape[1])
    square = patches.reshape(-1, side, side, patches.shape[-1]).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat((cls_row, resized.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)


def notes(file: TensorFile, config: VisionConfig) -> tuple[str, ...]:
    """What was chosen where the file could be read in more than one way."""
    blocks = num_layers(file.shapes, "blocks.")
    found = [f"{file.path.name}: {config.num_layers} blocks of {blocks}, {config.num_heads} heads"]
    if _grid(file) != config.grid_size:
        grids = [f"{side}x{side}" for side in (_grid(file), config.grid_size)]
        found.append(f"{file.path.name}: position embedding resized from {' to '.join(grids)}")
    return tuple(found)
