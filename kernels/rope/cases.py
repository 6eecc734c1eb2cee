"""Shapes of rope: Lynx's for the benchmarks, small and awkward ones for the tests."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from lynx_engine.cases import ANY_DEVICE, Case, Suite

from .op import rope, rope_append_kv
from .reference import rope_append_kv_reference, rope_reference

Sizes = tuple[int, int, int, int, int]
HEADS = (32, 32, 128)
TESTED: tuple[tuple[Sizes, bool], ...] = (
    # (B, S, Hq, Hk, D), one table for all rows
    ((1, 1, 2, 2, 32), True),
    ((2, 5, 3, 1, 22), False),
    ((1, 63, 2, 2, 66), True),
    ((3, 7, 1, 1, 2), False),
    ((2, 33, 4, 2, 88), True),
    ((2, 301, 1, 1, 128), False),
    ((0, 4, 2, 2, 8), True),
    ((2, 0, 2, 2, 8), False),
)


def make(sizes: Sizes, shared: bool, cache: str, generator: torch.Generator, dtype: torch.dtype) -> dict[str, Any]:
    """Queries and keys of order 1 at positions up to 2047; `cache`: "", "dense" or "paged", with room to spare."""
    B, S, Hq, Hk, D = sizes

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    positions = torch.randint(0, 2048, (1 if shared else B, S), generator=generator)
    angles = positions[..., None] / 10000.0 ** (torch.arange(0, D, 2) / D)
    angles = torch.cat((angles, angles), dim=-1)
    inputs = {"q": normal(B, S, Hq, D), "k": normal(B, S, Hk, D)}
    if cache:
        inputs["v"] = normal(B, S, Hk, D)
    inputs |= {"cos": angles.cos().to(dtype), "sin": angles.sin().to(dtype)}
    if cache == "dense":
        inputs |= {name: normal(B, S + 9, Hk, D) for name in ("k_cache", "v_cache")}
        inputs["starts"] = torch.randint(0, 10, (B,), generator=generator)
    elif cache == "paged":
        inputs |= {name: normal(B * S + 9, Hk, D) for name in ("k_cache", "v_cache")}
        inputs["slots"] = torch.randperm(B * S + 9, generator=generator)[: B * S].view(B, S)
        inputs["slots"][:, 1::5] = -1
    return inputs


def case(sizes: Sizes, shared: bool = True, *, cache: str = "", bench: tuple[str, ...] = ()) -> Case:
    B, S, Hq, Hk, D = sizes
    elements = 2 * B * S * (Hq + (2 if cache else 1) * Hk) * D + 2 * S * D
    shape = f"T={S}" if B == 1 else f"B={B} S={S}"
    return Case(
        name=f"{shape} {cache}".strip() if bench else f"B={B} S={S} Hq={Hq} Hk={Hk} D={D} {cache}".strip(),
        make=functools.partial(make, sizes, shared, cache),
        flops=3 * B * S * (Hq + Hk) * D,
        elements=elements,
        backward_flops=3 * B * S * (Hq + Hk) * D,
        backward_elements=elements,
        bench=bench,
    )


def plain_rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """LLaMA's apply_rotary_pos_emb, each step in the inputs' dtype."""

    def rotated(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cos[:, :, None] + torch.cat((-second, first), dim=-1) * sin[:, :, None]

    return rotated(q), rotated(k)


def plain_rope_append_kv(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, k_cache: Tensor, v_cache: Tensor, **places: Tensor
) -> Tensor:
    """Rotated, then copied by index."""
    q, k = plain_rope(q, k, cos, sin)
    index: tuple[Tensor, ...]
    if "slots" in places:
        kept = places["slots"] >= 0
        index, k, v = (places["slots"][kept],), k[kept], v[kept]
    else:
        index = torch.arange(q.shape[0])[:, None], places["starts"][:, None] + torch.arange(q.shape[1])
    k_cache.index_put_(index, k)
    v_cache.index_put_(index, v)
    return q


SUITES = (
    Suite(
        op="rope",
        function=rope,
        reference=rope_reference,
        plain=plain_rope,
        cases=(
            *(case(*sizes) for sizes in TESTED),
            *(case((1, S, *HEADS), bench=ANY_DEVICE) for S in (1, 72, 512)),
        ),
        differentiable=("q", "k"),
    ),
    Suite(
        op="rope_append_kv",
        function=rope_append_kv,
        reference=rope_append_kv_reference,
        plain=plain_rope_append_kv,
        cases=(
            *(case(*sizes, cache=cache) for sizes in TESTED for cache in ("dense", "paged")),
            *(case((B, S, *HEADS), cache="dense", bench=ANY_DEVICE) for B, S in ((1, 1), (8, 1), (1, 72), (1, 512))),
        ),
    ),
)
