"""patch_embed: schema, registration, autograd and the public function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lynx_engine.contract import Contract
from lynx_engine.errors import LynxError
from lynx_engine.registry import Op, Takes, define, tensor_refusals

from .reference import (
    patch_embed_backward_reference,
    patch_embed_image_backward_reference,
    patch_embed_reference,
)

__all__ = ["patch_embed"]

_PIXELS = (torch.uint8, torch.float32, torch.bfloat16)
_TENSORS = "Tensor image, Tensor weight, Tensor bias, Tensor pos_embed, Tensor cls_token"


def patch_embed(
    image: Tensor,
    weight: Tensor,
    bias: Tensor,
    pos_embed: Tensor,
    cls_token: Tensor,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    backend: str = "auto",
) -> Tensor:
    """cat(cls_token, patches(normalise(image)) @ weight^T + bias) + pos_embed: pixels to a ViT's first hidden states.

    image: uint8 [B, H, W, 3], normalised as (x / 255 - mean) / std; or floating [B, 3, H, W], normalised as
    (x - mean) / std, or taken as it is without mean and std. The arithmetic of the normalisation is float32.
    weight [D, 3, P, P], bias [D], pos_embed [1, 1 + N, D], cls_token [1, 1, D] with N = (H / P) * (W / P), all of one
    dtype; the patches are taken in row-major order. mean, std: one number a channel, both or neither.
    Returns [B, 1 + N, D] in the weight's dtype. An image's result does not depend on the other images.
    Gradients: weight, bias, pos_embed, cls_token, and a floating image. float32 and bfloat16 have kernels.

    LynxError: H or W is no multiple of P, shapes that do not agree, or a `backend` that cannot run the call.
    Source: EVA (arXiv 2211.07636), whose ViT-g/14 is the vision encoder of Lynx (arXiv 2307.02469).
    """
    tensors = (image, weight, bias, pos_embed, cls_token)
    normalisation = (None if mean is None else list(mean), None if std is None else list(std))
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _PatchEmbed.apply(*tensors, *normalisation, backend)
    return _forward(*tensors, *normalisation, backend)


class _PatchEmbed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        image, weight, *_, ctx.mean, ctx.std, _ = args
        ctx.save_for_backward(image, weight)
        return _forward(*args)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        image, weight = ctx.saved_tensors
        gradients = _backward(dy, image, weight, ctx.mean, ctx.std) if any(ctx.needs_input_grad[1:5]) else (None,) * 4
        d_image = _image_backward(dy, image, weight, ctx.std) if ctx.needs_input_grad[0] else None
        return (d_image, *gradients, None, None, None)


def _check(
    image: Tensor, weight: Tensor, bias: Tensor, pos_embed: Tensor, cls_token: Tensor, *normalisation: Any
) -> None:
    contract = Contract("patch_embed")
    contract.expect("weight", weight, "D 3 P P")
    contract.expect("bias", bias, "D")
    contract.expect("cls_token", cls_token, "1 1 D")
    contract.expect("pos_embed", pos_embed, "1 T D")
    if not weight.dtype.is_floating_point or weight.shape[-1] == 0:
        got = f"{weight.dtype} {list(weight.shape)}"
        raise LynxError(f"patch_embed: weight must be of a floating type with patches of at least 1x1, got {got}")
    for name, tensor in (("bias", bias), ("pos_embed", pos_embed), ("cls_token", cls_token)):
        if tensor.dtype != weight.dtype:
            raise LynxError(f"patch_embed: {name} must be {weight.dtype} as weight is, got {tensor.dtype}")
    _check_image(image, weight.shape[-1], pos_embed.shape[1])
    _check_normalisation(*normalisation)


def _check_image(image: Tensor, patch_size: int, positions: int) -> None:
    known = image.dtype == torch.uint8 or image.dtype.is_floating_point
    if not known or image.dim() != 4 or _channels_first(image).shape[1] != 3:
        got = f"{image.dtype} {list(image.shape)}"
        raise LynxError(f"patch_embed: image must be uint8 [B, H, W, 3] or floating [B, 3, H, W], got {got}")
    height, width = _channels_first(image).shape[2:]
    for side in (height, width):
        if side % patch_size:
            raise LynxError(f"patch_embed: image_size {side} is not a multiple of patch_size {patch_size}")
    wanted = 1 + (height // patch_size) * (width // patch_size)
    if positions != wanted:
        raise LynxError(
            f"patch_embed: pos_embed has {positions} positions, but an image of {height}x{width} pixels in patches of"
            f" {patch_size}x{patch_size} needs {wanted}, the class token's included"
        )


def _check_normalisation(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    if (mean is None) != (std is None):
        raise LynxError("patch_embed: mean and std must be given both or neither")
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != 3:
            raise LynxError(f"patch_embed: {name} must be 3 numbers, one a channel, got {len(values)}")


def _channels_first(image: Tensor) -> Tensor:
    return image.permute(0, 3, 1, 2) if image.dtype == torch.uint8 else image


def _refusals(takes: Takes, image: Tensor, *args: Any) -> Sequence[str]:
    reasons = list(tensor_refusals(takes, *args[:4]))
    if image.dtype not in _PIXELS:
        reasons.append(f"needs a uint8, float32 or bfloat16 image (got {str(image.dtype).removeprefix('torch.')})")
    if not image.is_cpu:
        reasons.append(f"needs the image in CPU memory (got {image.device.type})")
    return reasons


def _native(kernel: Callable[..., None], image: Tensor, *args: Any) -> Tensor:
    *parameters, mean, std = args
    weight, _, pos_embed, _ = parameters
    out = torch.empty(image.shape[0], pos_embed.shape[1], weight.shape[0], dtype=weight.dtype)
    kernel(_channels_first(image), *[p.contiguous() for p in parameters], mean, std, out)
    return out


def _reference(*args: Any) -> Tensor:
    *tensors, mean, std = args
    return patch_embed_reference(*tensors, mean=mean, std=std)


def _run(*args: Any) -> Tensor:
    *call, backend = args
    _check(*call)
    return _op(backend, *call)


def _fake(image: Tensor, weight: Tensor, *args: Any) -> Tensor:
    _check(image, weight, *args[:-1])
    return weight.new_empty(image.shape[0], args[1].shape[1], weight.shape[0])


def _fake_backward(dy: Tensor, image: Tensor, weight: Tensor, *args: Any) -> tuple[Tensor, ...]:
    channels = weight.shape[0]
    shapes = (weight.shape, (channels,), (1, *dy.shape[1:]), (1, 1, channels))
    return tuple(weight.new_empty(shape) for shape in shapes)


_op = Op("patch_embed", reference=_reference, native=_native, refusals=_refusals)

_forward = define(f"patch_embed({_TENSORS}, float[]? mean, float[]? std, str backend) -> Tensor", _run, _fake)
_backward = define(
    "patch_embed_backward(Tensor dy, Tensor image, Tensor weight, float[]? mean, float[]? std)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    lambda dy, image, weight, mean, std: patch_embed_backward_reference(dy, image, weight, mean=mean, std=std),
    _fake_backward,
)
_image_backward = define(
    "patch_embed_image_backward(Tensor dy, Tensor image, Tensor weight, float[]? std) -> Tensor",
    lambda dy, image, weight, std: patch_embed_image_backward_reference(dy, image, weight, std=std),
    lambda dy, image, weight, std: image.new_empty(image.shape),
)
