"""Shapes of prefix_attention: Lynx's for the benchmarks, small and awkward ones for the tests."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lynx_engine.cases import ANY_DEVICE, Case, Suite

from .op import paged_attention, prefix_attention, prefix_attention_varlen
from .reference import (
    gather_paged,
    paged_attention_reference,
    prefix_attention_reference,
    prefix_attention_varlen_reference,
    visible_keys,
)

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


PAGED = (
    # lengths, H, H_kv, D, block_size
    ((5, 0, 70), 4, 2, 20, 16),
    ((300, 1), 2, 2, 64, 7),
    ((63, 901), 6, 1, 24, 32),
    ((33,), 9, 3, 256, 1),
    ((), 2, 1, 8, 4),
)


def make_paged(
    lengths: tuple[int, ...],
    H: int,
    H_kv: int,
    D: int,
    block_size: int,
    int8: bool,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Every sequence's blocks anywhere among more than are needed, in no order."""
    needed = [-(-n // block_size) for n in lengths]
    num_blocks = sum(needed) + 3
    places = iter(torch.randperm(num_blocks, generator=generator).tolist())
    table = torch.full((len(lengths), max(needed, default=0) + 1), -1, dtype=torch.int32)
    for b, count in enumerate(needed):
        table[b, :count] = torch.tensor([next(places) for _ in range(count)], dtype=torch.int32)
    shape = (num_blocks, block_size, H_kv)
    inputs: dict[str, Any] = {"q": torch.randn(len(lengths), H, D, generator=generator).to(dtype)}
    for name in ("k", "v"):
        x = torch.randn(*shape, D, generator=generator)
        if int8:
            scale = x.abs().amax(-1) / 127
            inputs |= {f"{name}_cache": (x / scale[..., None]).round().to(torch.int8), f"{name}_scale": scale}
        else:
            inputs[f"{name}_cache"] = x.to(dtype)
    return inputs | {"block_table": table, "seq_lens": torch.tensor(lengths, dtype=torch.int32)}


def paged_case(
    lengths: tuple[int, ...],
    H: int,
    H_kv: int,
    D: int,
    block_size: int,
    *,
    int8: bool = False,
    name: str = "",
    bench: tuple[str, ...] = (),
) -> Case:
    keys = sum(lengths) * H_kv * 2
    return Case(
        name=name or f"Sk={lengths} H={H}/{H_kv} D={D} block={block_size}{' int8' if int8 else ''}",
        make=functools.partial(make_paged, lengths, H, H_kv, D, block_size, int8),
        flops=4 * H * D * sum(lengths),
        elements=2 * len(lengths) * H * D + (0 if int8 else keys * D),
        other_bytes=keys * (D + 4) if int8 else 0,
        bench=bench,
    )


def lynx_paged_cases() -> Iterator[Case]:
    """A decoding step of Lynx-8B, and of a model with four query heads a KV head."""
    for keys in (128, 1024, 4096):
        for B in (1, 8, 32):
            devices = ANY_DEVICE if keys * B <= 32768 else ("cuda",)
            for int8 in (False, True):
                name = f"decode KV={keys} B={B}{' int8' if int8 else ''}"
                yield paged_case((keys,) * B, 32, 32, 128, 16, int8=int8, name=name, bench=devices)
    yield paged_case((1024,) * 8, 32, 8, 128, 16, name="decode KV=1024 B=8 GQA 4", bench=ANY_DEVICE)


def gather_keys_and_values(arguments: dict[str, Any], b: int) -> tuple[Tensor, Tensor]:
    """k and v [S, H_kv, D] of sequence b in q's dtype, as a user without paging holds them."""
    found = []
    for x in "kv":
        cache, scale = arguments[f"{x}_cache"], arguments.get(f"{x}_scale")
        place = arguments["block_table"][b], int(arguments["seq_lens"][b]), cache.shape[2]
        rows = gather_paged(cache, *place)
        found.append(
            (rows if scale is None else rows * gather_paged(scale, *place)[..., None]).to(arguments["q"].dtype)
        )
    return found[0], found[1]


def plain_paged_attention(**arguments: Any) -> Tensor:
    """Gathered, and attended to in q's dtype."""
    q = arguments["q"]
    outputs = [q[:0]]
    for b in range(len(q)):
        group = q.shape[1] // arguments["k_cache"].shape[2]
        k, v = (x.repeat_interleave(group, dim=1)[None] for x in gather_keys_and_values(arguments, b))
        outputs.append(plain_prefix_attention(q[b, None, None], k, v, causal=False)[:, 0])
    return torch.cat(outputs)


def torch_paged_sdpa(arguments: dict[str, Any]) -> Callable[[], Tensor]:
    """scaled_dot_product_attention on the sequences' keys and values, gathered beforehand: a dense cache."""
    q = arguments["q"]
    gathered = zip(*(gather_keys_and_values(arguments, b) for b in range(len(q))), strict=True)
    k, v = (torch.stack(rows).transpose(1, 2) for rows in gathered)
    return lambda: F.scaled_dot_product_attention(q[:, :, None], k, v, enable_gqa=q.shape[1] != k.shape[1])[:, :, 0]


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
    Suite(
        op="paged_attention",
        function=paged_attention,
        reference=paged_attention_reference,
        plain=plain_paged_attention,
        cases=(*(paged_case(*sizes, int8=int8) for sizes in PAGED for int8 in (False, True)), *lynx_paged_cases()),
        peers={"sdpa": torch_paged_sdpa},
        rival="sdpa",
    ),
)
