"""What is special about patch_embed: exact preprocessing of bytes, any strides, patches that keep to themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lynx_engine import LynxError, registry
from lynx_engine.config import CLIP_MEAN, CLIP_STD
from lynx_engine.ops import patch_embed

NORMALISATION = {"mean": CLIP_MEAN, "std": CLIP_STD}


def dtype_of(backend: str) -> torch.dtype:
    return torch.bfloat16 if backend == "cpu_amx" else torch.float32


def parameters(backend: str, patch_size: int, channels: int, positions: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(channels)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype_of(backend))

    return {
        "weight": normal(channels, 3, patch_size, patch_size) / patch_size,
        "bias": normal(channels),
        "pos_embed": normal(1, positions, channels),
        "cls_token": normal(1, 1, channels),
    }


def random_bytes(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(7), dtype=torch.uint8)


def as_floats(image: Tensor) -> Tensor:
    """The authors' preprocessing of decoded bytes: [B, H, W, 3] to normalised [B, 3, H, W], float32 throughout."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (image.permute(0, 3, 1, 2).float() / 255 - mean) / std


def test_every_byte_is_normalised_to_the_last_bit(backend: str) -> None:
    """With 1 x 1 patches and weight = identity a token is its pixel: 256 values of each channel against float32."""
    image = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).repeat(1, 1, 1, 3)
    dtype = dtype_of(backend)
    zeros = {"bias": torch.zeros(3), "pos_embed": torch.zeros(1, 257, 3), "cls_token": torch.zeros(1, 1, 3)}
    identity = {"weight": torch.eye(3).view(3, 3, 1, 1), **zeros}
    out = patch_embed(image, **{k: v.to(dtype) for k, v in identity.items()}, **NORMALISATION, backend=backend)
    wanted = as_floats(image)[0].flatten(1).T.to(dtype)
    assert torch.equal(out[0, 1:], wanted)
    assert not out[0, 0].any()


def test_bytes_equal_normalised_floats(backend: str) -> None:
    weights = parameters(backend, 7, 40, 7)
    image = random_bytes(2, 14, 21, 3)
    from_bytes = patch_embed(image, **weights, **NORMALISATION, backend=backend)
    assert torch.equal(from_bytes, patch_embed(as_floats(image), **weights, backend=backend))
    scaled = image.permute(0, 3, 1, 2).float() / 255
    assert torch.equal(from_bytes, patch_embed(scaled, **weights, **NORMALISATION, backend=backend))


def test_bytes_without_normalisation_are_divided_by_255(backend: str) -> None:
    weights = parameters(backend, 7, 8, 2)
    image = random_bytes(1, 7, 7, 3)
    floats = image.permute(0, 3, 1, 2).float() / 255
    assert torch.equal(patch_embed(image, **weights, backend=backend), patch_embed(floats, **weights, backend=backend))


def strided_images() -> dict[str, Tensor]:
    """Views that share no layout with a dense image."""
    floats = torch.randn(2, 3, 10, 15, generator=torch.Generator().manual_seed(1))
    big = torch.randn(2, 6, 20, 47, generator=torch.Generator().manual_seed(2))
    return {
        "every other pixel": big[:, ::2, ::2, 1:31:2],
        "crop": big[:, 2:5, 3:13, 9:24],
        "channels last": floats.contiguous(memory_format=torch.channels_last),
        "transposed": floats.transpose(2, 3).contiguous().transpose(2, 3),
        "one image repeated": floats[:1].expand(2, -1, -1, -1),
        "grey": floats[:, :1].expand(-1, 3, -1, -1),
        "bytes, crop": random_bytes(2, 20, 40, 3)[:, 3:13, 5:20],
        "bytes, planes": random_bytes(2, 3, 10, 15).permute(0, 2, 3, 1),
        "bytes of RGBA": random_bytes(2, 10, 15, 4)[..., :3],
        "bfloat16, crop": big.bfloat16()[:, 2:5, 3:13, 9:24],
    }


@pytest.mark.parametrize("layout", strided_images())
def test_strides_do_not_matter(backend: str, layout: str) -> None:
    weights = parameters(backend, 5, 19, 7)
    image = strided_images()[layout]
    normalisation = NORMALISATION if image.dtype == torch.uint8 else {}
    got = patch_embed(image, **weights, **normalisation, backend=backend)
    dense = patch_embed(image.clone(memory_format=torch.contiguous_format), **weights, **normalisation, backend=backend)
    assert torch.equal(got, dense)
    loose = {name: torch.stack((w, w), dim=-1)[..., 0] for name, w in weights.items()}
    assert torch.equal(got, patch_embed(image, **loose, **normalisation, backend=backend))


def test_an_image_does_not_see_its_batch(backend: str) -> None:
    """Bitwise: alone, in a batch that fills more than one chunk of patches, and at another place in it."""
    weights = parameters(backend, 2, 21, 145)
    images = random_bytes(5, 24, 24, 3)
    together = patch_embed(images, **weights, **NORMALISATION, backend=backend)
    for b in range(5):
        alone = patch_embed(images[b : b + 1], **weights, **NORMALISATION, backend=backend)
        assert torch.equal(alone[0], together[b])
    shuffled = patch_embed(images.flip(0), **weights, **NORMALISATION, backend=backend)
    assert torch.equal(shuffled.flip(0), together)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_pixel_spoils_its_own_patch_only(backend: str, value: float) -> None:
    weights = parameters(backend, 7, 33, 7)
    image = torch.randn(1, 3, 14, 21, generator=torch.Generator().manual_seed(3))
    clean = patch_embed(image, **weights, backend=backend)
    image[0, 1, 9, 15] = value
    spoilt = patch_embed(image, **weights, backend=backend)
    assert not spoilt[0, 6].isfinite().any()
    assert torch.equal(spoilt[0, :6], clean[0, :6])
    weights["bias"][4] = float("nan")
    assert patch_embed(image, **weights, backend=backend)[0, 1:6, 4].isnan().all()


def call(**changes: Any) -> dict[str, Any]:
    return {"image": torch.zeros(1, 3, 28, 28), **parameters("reference", 14, 8, 5), **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": torch.zeros(1, 3, 50, 28)}, "image_size 50 is not a multiple of patch_size 14"),
        ({"image": torch.zeros(1, 3, 28, 27)}, "image_size 27 is not a multiple of patch_size 14"),
        ({"image": torch.zeros(1, 3, 42, 28)}, r"pos_embed has 5 positions, but an image of 42x28 .* needs 7"),
        ({"image": torch.zeros(3, 28, 28)}, r"uint8 \[B, H, W, 3\] or floating \[B, 3, H, W\], got .*32 \[3, 28, 28\]"),
        ({"image": torch.zeros(1, 28, 28, 3)}, r"got torch.float32 \[1, 28, 28, 3\]"),
        ({"image": torch.zeros(1, 3, 28, 28).byte()}, r"got torch.uint8 \[1, 3, 28, 28\]"),
        ({"image": torch.zeros(1, 3, 28, 28).long()}, r"got torch.int64 \[1, 3, 28, 28\]"),
        ({"weight": torch.zeros(8, 3, 14, 14).int()}, r"weight must be of a floating type .*, got torch.int32"),
        ({"weight": torch.zeros(8, 3, 0, 0)}, r"with patches of at least 1x1, got torch.float32 \[8, 3, 0, 0\]"),
        ({"bias": torch.zeros(9)}, r"bias must be \[D=8\], got \[9\]"),
        ({"cls_token": torch.zeros(8)}, r"cls_token must be \[1, 1, D=8\], got \[8\]"),
        ({"weight": torch.zeros(8, 3, 14, 13)}, r"weight must be \[D=8, 3, P=14, P=14\], got \[8, 3, 14, 13\]"),
        ({"bias": torch.zeros(8).double()}, "bias must be torch.float32 as weight is, got torch.float64"),
        ({"mean": CLIP_MEAN}, "mean and std must be given both or neither"),
        ({"mean": (0.5,), "std": (0.5,)}, "mean must be 3 numbers, one a channel, got 1"),
        (
            {"backend": "cpu_avx2", "image": torch.zeros(1, 3, 28, 28).half()},
            "needs a uint8, float32 or bfloat16 image",
        ),
        ({"backend": "cuda"}, "unknown backend 'cuda'"),
    ],
)
def test_wrong_calls_say_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LynxError, match=message):
        patch_embed(**call(**changes))


def test_half_and_double_run_on_the_reference() -> None:
    for dtype in (torch.float16, torch.float64):
        arguments = {name: value.to(dtype) for name, value in call().items()}
        chosen = registry.ops()["patch_embed"].choose("auto", *arguments.values(), None, None)
        assert chosen.name == "reference"
        assert patch_embed(**arguments).dtype == dtype


def test_gradients_are_the_convolutions() -> None:
    """Against autograd through conv2d in float64, from bytes and from floats that are normalised inside."""
    weights = {k: v.double().requires_grad_() for k, v in parameters("reference", 3, 5, 7).items()}
    floats = torch.rand(2, 3, 6, 9, generator=torch.Generator().manual_seed(5)).double().requires_grad_()
    leaves = [floats, *weights.values()]
    dy = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(6)).double()
    got = torch.autograd.grad(patch_embed(floats, **weights, **NORMALISATION), leaves, dy)
    mean, std = (torch.tensor(values).double()[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    weight, bias, pos_embed, cls_token = weights.values()
    tokens = torch.nn.functional.conv2d((floats - mean) / std, weight, bias, stride=3).flatten(2).transpose(1, 2)
    wanted = torch.autograd.grad(torch.cat((cls_token.expand(2, -1, -1), tokens), 1) + pos_embed, leaves, dy)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_frozen_inputs_get_no_gradient() -> None:
    arguments = call()
    arguments["weight"].requires_grad_()
    patch_embed(**arguments).sum().backward()
    assert arguments["weight"].grad is not None
    assert all(arguments[name].grad is None for name in ("image", "bias", "pos_embed", "cls_token"))
