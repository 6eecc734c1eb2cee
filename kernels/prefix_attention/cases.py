"""Shapes of prefix_attention: Lynx's for the benchmarks, small and awkward ones for the tests."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lynx_engine.cases import ANY_DEVICE, Case, Suite

from .op import prefix_attention, prefix_attention_varlen
from .reference import prefix_attention_reference, prefix_attention_varlen_reference, visible_keys

Sizes = tuple[int, int, int, int, int]

CAUSAL = (
    # B, Sq, Sk, H, D
    (2, 63, 63, 2, 22),
    (1, 130, 130, 1, 64),
    (3, 1, 77, 2, 32),
    (2, 5, 100, 1, 88),
    (1, 70, 9, 1, 16),
    (1, 9, 9, 1, 256),
    (2, 0, 5, 1, 8),
    (2, 3, 0, 2, 4),
    (0, 4, 4, 1, 8),
)
FULL = ((1, 145, 145, 2, 22), (2, 8, 197, 2, 64), (1, 1, 1, 1, 1))
PREFIX = ((2, 100, 100, 1, 24), (2, 7, 60, 2, 17))
HEADS, VIT_HEADS, RESAMPLER_HEADS = (32, 128), (16, 88), (8, 64)
PACKED = (
    # lengths of queries, lengths of keys, H, D
    ((5, 0, 70), (5, 3, 70), 2, 20),
    ((1, 1, 1), (40, 0, 130), 1, 64),
    ((3, 9), (2, 12), 1, 33),
    ((), (), 1, 8),
)


def make(
    sizes: Sizes,
    causal: bool,
    prefix: bool,
    holes: bool,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Scores of order 1, as after a trained projection; with `holes`, the second row of a batch sees few keys."""
    B, Sq, Sk, H, D = sizes
    q, k, v = (torch.randn(B, S, H, D, generator=generator).to(dtype) for S in (Sq, Sk, Sk))
    inputs: dict[str, Any] = {"q": q, "k": k, "v": v, "causal": causal}
    if prefix:
        inputs["prefix_lens"] = torch.tensor([Sk // 2, 1, 0, Sk][:B])
    if holes:
        inputs["kv_mask"] = torch.rand(B, Sk, generator=generator) > 0.3
        inputs["kv_mask"][-1, : Sk // 2] = False
    return inputs


def case(
    sizes: Sizes,
    name: str = "",
    *,
    causal: bool = True,
    prefix: bool = False,
    holes: bool = False,
    bench: tuple[str, ...] = (),
) -> Case:
    B, Sq, Sk, H, D = sizes
    words = [word for word, on in (("causal", causal), ("prefix", prefix), ("holes", holes)) if on]
    pairs = Sq * Sk if not causal else Sq * Sk - Sq * (Sq - 1) // 2
    return Case(
        name=name or " ".join([f"B={B} Sq={Sq} Sk={Sk} H={H} D={D}", *words]),
        make=functools.partial(make, sizes, causal, prefix, holes),
        flops=4 * B * H * D * pairs,
        elements=2 * B * H * D * (Sq + Sk),
        backward_flops=10 * B * H * D * pairs,
        backward_elements=4 * B * H * D * (Sq + Sk),
        bench=bench,
    )


def lynx_cases() -> Iterator[Case]:
    """ViT and resampler at 224 and 420 pixels, prefill of a caption, a chat and a clip, decoding against a KV cache."""
    for B in (1, 8):
        for tokens in (257, 901):
            yield case((B, tokens, tokens, *VIT_HEADS), f"vit {tokens} B={B}", causal=False, bench=ANY_DEVICE)
    yield case((1, 32, 901, *RESAMPLER_HEADS), "resampler 901", causal=False, bench=ANY_DEVICE)
    for tokens in (72, 288, 1056):
        yield case((1, tokens, tokens, *HEADS), f"prefill {tokens}", bench=ANY_DEVICE)
    for keys in (128, 1024, 4096):
        for B in (1, 8, 32, 128):
            yield case((B, 1, keys, *HEADS), f"decode KV={keys} B={B}", bench=ANY_DEVICE if B <= 32 else ("cuda",))


def make_packed(
    lengths_q: tuple[int, ...],
    lengths_k: tuple[int, ...],
    H: int,
    D: int,
    prefix: bool,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> dict[str, Any]:
    bounds = [torch.tensor([0, *lengths]).cumsum(0) for lengths in (lengths_q, lengths_k)]
    q, k, v = (torch.randn(sum(n), H, D, generator=generator).to(dtype) for n in (lengths_q, lengths_k, lengths_k))
    inputs = {"q": q, "k": k, "v": v, "cu_seqlens_q": bounds[0], "cu_seqlens_k": bounds[1]}
    if prefix:
        inputs["prefix_lens"] = torch.tensor([n // 2 for n in lengths_k], dtype=torch.int64)
    return inputs


def packed_case(lengths_q: tuple[int, ...], lengths_k: tuple[int, ...], H: int, D: int, *, prefix: bool) -> Case:
    return Case(
        name=f"Sq={lengths_q} Sk={lengths_k} H={H} D={D}{' prefix' if prefix else ''}",
        make=functools.partial(make_packed, lengths_q, lengths_k, H, D, prefix),
    )


def plain_prefix_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    prefix_lens: Tensor | None = None,
    causal: bool = True,
    kv_mask: Tensor | None = None,
) -> Tensor:
    """The authors' eager attention: products in q's dtype, softmax in float32 and cast back."""
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
    visible = visible_keys(q.shape[1], k.shape[1], prefix_lens=prefix_lens, causal=causal, kv_mask=kv_mask)
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = scores.to(wide).masked_fill(~visible[:, None], torch.finfo(wide).min)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1).to(q.dtype), v)


def torch_sdpa(arguments: dict[str, Any]) -> Callable[[], Tensor]:
    """scaled_dot_product_attention on views, with `is_causal` where it means what this op means, else a mask."""
    q, k, v = (arguments[name].transpose(1, 2) for name in ("q", "k", "v"))
    options: dict[str, Any] = {}
    if arguments["causal"] and q.shape[2] == k.shape[2]:
        options["is_causal"] = True
    elif arguments["causal"] and q.shape[2] > 1:
        options["attn_mask"] = visible_keys(q.shape[2], k.shape[2], causal=True)[:, None]
    return lambda: F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2)


def torch_flex(arguments: dict[str, Any]) -> Callable[[], Tensor]:
    """FlexAttention, compiled, with its own block mask for causal calls."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, k, v = (arguments[name].transpose(1, 2) for name in ("q", "k", "v"))
    Sq, Sk = q.shape[2], k.shape[2]
    mask = None
    if arguments["causal"]:
        mask = create_block_mask(lambda b, h, i, j: j <= i + Sk - Sq, None, None, Sq, Sk, device=q.device.type)
    attention = torch.compile(flex_attention, dynamic=False)
    return lambda: attention(q, k, v, block_mask=mask).transpose(1, 2)


def plain_prefix_attention_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, *, prefix_lens: Tensor | None = None
) -> Tensor:
    """The authors' attention on one sequence after the other."""
    outputs = [q[:0]]
    for b in range(cu_seqlens_q.numel() - 1):
        rows_q, rows_k = (slice(*bounds[b : b + 2].tolist()) for bounds in (cu_seqlens_q, cu_seqlens_k))
        lens = None if prefix_lens is None else prefix_lens[b : b + 1]
        outputs.append(plain_prefix_attention(q[None, rows_q], k[None, rows_k], v[None, rows_k], prefix_lens=lens)[0])
    return torch.cat(outputs)


SUITES = (
    Suite(
        op="prefix_attention",
        function=prefix_attention,
        reference=prefix_attention_reference,
        plain=plain_prefix_attention,
        cases=(
            *(case(sizes) for sizes in CAUSAL),
            *(case(sizes, causal=False) for sizes in FULL),
            *(case(sizes, prefix=True) for sizes in PREFIX),
            case((2, 66, 66, 2, 32), holes=True),
            case((3, 20, 80, 1, 40), prefix=True, holes=True),
            case((2, 33, 65, 1, 8), causal=False, holes=True),
            *lynx_cases(),
        ),
        differentiable=("q", "k", "v"),
        peers={"sdpa": torch_sdpa, "flex": torch_flex},
        rival="sdpa",
    ),
    Suite(
        op="prefix_attention_varlen",
        function=prefix_attention_varlen,
        reference=prefix_attention_varlen_reference,
        plain=plain_prefix_attention_varlen,
        cases=tuple(packed_case(*sizes, prefix=prefix) for sizes in PACKED for prefix in (False, True)),
        differentiable=("q", "k", "v"),
    ),
)
