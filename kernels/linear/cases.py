"""Shapes of linear: Lynx's for the benchmarks, small and awkward ones for the tests; four ways to call it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lynx_engine.cases import ANY_DEVICE, Case, Suite

from .op import linear, pack_linear, unpack_linear
from .reference import activated, linear_reference

SHAPES = (
    # leading axes of x, K, N
    ((1,), 64, 32),
    ((2, 5), 48, 24),
    ((63,), 65, 33),
    ((3,), 1, 1),
    ((17,), 16, 7),
    ((2,), 1100, 130),
    ((33,), 544, 64),
    ((0,), 64, 32),
    ((2, 0), 8, 4),
)


def make(
    leading: tuple[int, ...],
    K: int,
    N: int,
    form: str,
    options: Mapping[str, Any],
    generator: torch.Generator,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Activations of order 1, products of order 1."""

    def normal(*shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * std + mean).to(dtype)

    arguments: dict[str, Any] = {"x": normal(*leading, K), "weight": normal(N, K, std=K**-0.5)}
    if form == "gated":
        arguments["weight"] = pack_linear(arguments["weight"], normal(N, K, std=K**-0.5))
    elif form != "weight":
        arguments["weight"] = pack_linear(arguments["weight"])
    if form != "weight":
        arguments["out_features"] = N
    if form in ("weight", "fused"):
        arguments["bias"] = normal(N, std=0.1)
    if form == "fused":
        arguments |= {"residual": normal(*leading, N), "norm_bias": normal(K, std=0.1)}
    if form in ("fused", "gated"):
        arguments["norm_weight"] = normal(K, std=0.1, mean=1.0)
    return {**arguments, **options}


def case(
    leading: tuple[int, ...], K: int, N: int, form: str, *, name: str = "", bench: tuple[str, ...] = (), **options: Any
) -> Case:
    rows, columns = torch.Size(leading).numel(), 2 * N if form == "gated" else N
    said = " ".join((form, *map(str, options.values())))
    return Case(
        name=f"{name} T={rows}" if bench else f"{said} T={'x'.join(map(str, leading))} K={K} N={N}",
        make=functools.partial(make, leading, K, N, form, options),
        flops=2 * rows * K * columns,
        elements=rows * (K + N) + K * columns,
        backward_flops=(4 if form == "weight" else 2) * rows * K * columns,
        backward_elements=rows * (K + N) + (2 if form == "weight" else 1) * K * columns,
        bench=bench,
    )


def plain_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    out_features: int | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    scale: float = 1.0,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
) -> Tensor:
    """What a user writes: each step in x's dtype, on the unpacked weight."""
    if weight.dim() != 2 and out_features is not None:
        weight = unpack_linear(weight, out_features, x.shape[-1]).flatten(0, -2)
    if norm_weight is not None and norm_bias is not None:
        x = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias)
    elif norm_weight is not None:
        x = F.rms_norm(x, x.shape[-1:], norm_weight, 1e-5)
    y = activated(F.linear(x, weight, bias), activation)
    y = y if scale == 1.0 else scale * y
    return y if residual is None else residual + y


def with_own_weight(function: Callable[..., Tensor], arguments: dict[str, Any]) -> Callable[[], Tensor]:
    """`function` on the weight as nn.Linear holds it."""
    x, packed, N = arguments["x"], arguments["weight"], arguments["out_features"]
    own = {**arguments, "weight": unpack_linear(packed, N, x.shape[-1]).flatten(0, -2), "out_features": None}
    return lambda: function(**own)


def compiled(arguments: dict[str, Any]) -> Callable[[], Tensor]:
    return with_own_weight(torch.compile(plain_linear, dynamic=False), arguments)


def packed_by_onednn(arguments: dict[str, Any]) -> Callable[[], Tensor]:
    """torch's oneDNN linear on a weight packed beforehand, the rest as a user writes it. Forward only."""
    x, N = arguments["x"], arguments["out_features"]
    matrix = unpack_linear(arguments["weight"], N, x.shape[-1]).flatten(0, -2)
    packed = torch.ops.mkldnn._reorder_linear_weight(matrix, x.shape[:-1].numel())
    rest = {name: value for name, value in arguments.items() if name not in ("x", "weight", "out_features")}

    def call() -> Tensor:
        return _around(lambda h, bias: torch.ops.mkldnn._linear_pointwise(h, packed, bias, "none", [], ""), x, **rest)

    return call


def _around(
    product: Callable[[Tensor, Tensor | None], Tensor],
    x: Tensor,
    *,
    bias: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    norm_weight: Tensor | None = None,
) -> Tensor:
    h = x if norm_weight is None else F.rms_norm(x, x.shape[-1:], norm_weight, 1e-5)
    y = activated(product(h, bias), activation)
    return y if residual is None else residual + y


def measured() -> tuple[Case, ...]:
    """EVA ViT-g on 420 x 420 pixels, the decoder of Lynx-8B, its output head."""
    vit, llm, ffn = 1408, 4096, 11008
    at = functools.partial(case, bench=ANY_DEVICE)
    return (
        at((901,), vit, 3 * vit, "packed", name="vit qkv"),
        at((901,), vit, vit, "packed", name="vit proj"),
        at((901,), vit, 6144, "packed", name="vit fc1", activation="gelu"),
        at((901,), 6144, vit, "packed", name="vit fc2"),
        *(at((T,), llm, llm, "packed", name="llm proj") for T in (1, 8, 72, 288, 512, 2048)),
        *(at((T,), ffn, llm, "packed", name="llm down") for T in (1, 72, 512)),
        *(at((T,), llm, 32001, "packed", name="llm head") for T in (1, 8)),
    )


def suite(form: str, differentiable: tuple[str, ...], cases: tuple[Case, ...]) -> Suite:
    packed = form != "weight"
    return Suite(
        op="linear",
        function=linear,
        reference=linear_reference,
        plain=plain_linear,
        cases=cases,
        differentiable=differentiable,
        peers={
            "torch": functools.partial(with_own_weight, plain_linear),
            "torch_compile": compiled,
            "onednn": packed_by_onednn,
        }
        if packed
        else {},
    )


def tested(form: str, *options: dict[str, Any]) -> tuple[Case, ...]:
    return tuple(case(*shape, form, **options[i % len(options)]) for i, shape in enumerate(SHAPES))


GATED = {"activation": "gated_silu"}
SUITES = (
    suite("weight", ("x", "weight", "bias"), tested("weight", {}, {"activation": "gelu"})),
    suite("packed", ("x",), (*tested("packed", {}, {"activation": "silu"}, {"scale": 0.5}), *measured())),
    suite(
        "fused",
        ("x", "bias", "residual", "norm_weight", "norm_bias"),
        tested("fused", {"scale": 0.75, "activation": "silu"}, {"activation": "gelu"}),
    ),
    suite(
        "gated",
        ("x", "norm_weight"),
        (
            *tested("gated", GATED),
            *(case((T,), 4096, 11008, "gated", name="llm gate up", bench=ANY_DEVICE, **GATED) for T in (1, 8, 72, 512)),
        ),
    ),
)
