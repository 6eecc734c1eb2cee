"""Shapes of both ops: Lynx's for the benchmarks, small and awkward ones for the tests; what users call instead."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lynx_engine.cases import ANY_DEVICE, Case, Suite

from .op import quantized_linear, weight_only_linear
from .packing import depth_of, dequantize_linear, quantize_linear
from .reference import activated, block_of, quantized_linear_reference, quantized_rows, weight_only_linear_reference

FORMATS = (("int8", None), ("int4", 32), ("int4", 128), ("int8", 32))
SHAPES = (
    # leading axes of x, K, N
    ((1,), 96, 32),
    ((2, 5), 48, 24),
    ((63,), 65, 33),
    ((3,), 5, 1),
    ((17,), 160, 7),
    ((2,), 1100, 65),
    ((0,), 64, 32),
)


def make(
    leading: tuple[int, ...],
    K: int,
    N: int,
    format: tuple[str, int | None],
    form: str,
    options: Mapping[str, Any],
    generator: torch.Generator,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Activations of order 1, products of order 1."""

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * std

    up = normal(N, K, std=K**-0.5) if form == "gated" else None
    codes, scales = quantize_linear(normal(N, K, std=K**-0.5), *format, up=up)
    arguments: dict[str, Any] = {"x": normal(*leading, K).to(dtype), "codes": codes, "scales": scales}
    arguments["out_features"] = N
    if form == "fused":
        arguments |= {"bias": normal(N, std=0.1).to(dtype), "residual": normal(*leading, N).to(dtype)}
    return {**arguments, **options}


def case(
    leading: tuple[int, ...],
    K: int,
    N: int,
    format: tuple[str, int | None],
    form: str,
    *,
    name: str = "",
    bench: tuple[str, ...] = (),
    **options: Any,
) -> Case:
    rows, columns = torch.Size(leading).numel(), 2 * N if form == "gated" else N
    said = format[0] + (f" g{format[1]}" if format[1] else "")
    groups = -(-K // format[1]) if format[1] else 1
    return Case(
        name=f"{name} {said} T={rows}"
        if bench
        else " ".join((form, said, *map(str, options.values()), f"T={'x'.join(map(str, leading))} K={K} N={N}")),
        make=functools.partial(make, leading, K, N, format, form, options),
        flops=2 * rows * K * columns,
        elements=rows * (K + N),
        other_bytes=columns * (K * (8 if format[0] == "int8" else 4) // 8 + 2 * groups),
        backward_flops=2 * rows * K * columns,
        backward_elements=rows * (K + N) + K * columns,
        bench=bench,
    )


def matrix(arguments: Mapping[str, Any]) -> Tensor:
    """The weight in x's dtype; of a gated one, gate above up."""
    x, gated = arguments["x"], arguments.get("activation") == "gated_silu"
    sizes = arguments["out_features"], x.shape[-1]
    weight = dequantize_linear(arguments["codes"], arguments["scales"], *sizes, gated=gated)
    return weight.flatten(0, -2).to(x.dtype)


def plain(
    round_x: bool,
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    bias: Tensor | None = None,
    *,
    out_features: int,
    activation: str | None = None,
    residual: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """What a user writes: each step in x's dtype, on the weight made floating again."""
    given = {"x": x, "codes": codes, "scales": scales, "out_features": out_features, "activation": activation}
    weight = matrix(given)
    if round_x:
        numbers, x_scales = quantized_rows(x.detach(), depth_of(codes), block_of(codes, scales))
        rounded = (numbers * x_scales[..., None]).flatten(-2)[..., : x.shape[-1]].to(x.dtype)
        x = x + (rounded - x).detach()
    y = activated(F.linear(x, weight, bias), activation)
    y = y if scale == 1.0 else scale * y
    return y if residual is None else residual + y


def around(arguments: dict[str, Any], product: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
    """`product` of x with everything that stands around it, as a user writes it."""
    x, residual, scale = arguments["x"], arguments.get("residual"), arguments.get("scale", 1.0)

    def call() -> Tensor:
        y = activated(product(x), arguments.get("activation"))
        y = y if scale == 1.0 else scale * y
        return y if residual is None else residual + y

    return call


def in_bfloat16(arguments: dict[str, Any]) -> Callable[[], Tensor]:
    """torch on the weight in x's dtype: what quantising is to beat."""
    weight = matrix(arguments)
    return around(arguments, lambda x: F.linear(x, weight, arguments.get("bias")))


def torch_int8(arguments: dict[str, Any]) -> Callable[[], Tensor]:
    """torch's own kernel for 8-bit weights, one scale a row."""
    weight = matrix(arguments)
    scales = (weight.float().abs().amax(1) / 127).clamp_min(1e-30)
    codes = (weight.float() / scales[:, None]).round().to(torch.int8)
    scales = scales.to(weight.dtype)

    def product(x: Tensor) -> Tensor:
        y = torch._weight_int8pack_mm(x.flatten(0, -2), codes, scales)
        return y.unflatten(0, x.shape[:-1]) if x.dim() != 2 else y

    return around(arguments, product)


def measured(format: tuple[str, int | None], rows: tuple[int, ...] = (1, 8, 72, 512)) -> tuple[Case, ...]:
    """A square linear of Lynx-8B's decoder and its gate and up."""
    at = functools.partial(case, bench=ANY_DEVICE)
    return (
        *(at((T,), 4096, 4096, format, "packed", name="llm proj") for T in rows),
        *(at((T,), 11008, 4096, format, "packed", name="llm down") for T in rows[::2]),
        at((1,), 4096, 11008, format, "gated", name="llm gate up", activation="gated_silu"),
    )


def tested(index: int, form: str, *options: dict[str, Any]) -> tuple[Case, ...]:
    """Every shape, and with it the formats and options in turn."""
    return tuple(
        case(*shape, FORMATS[(i + index) % len(FORMATS)], form, **options[i % len(options)])
        for i, shape in enumerate(SHAPES)
    )


def suite(
    function: Callable[..., Tensor], form: str, cases: tuple[Case, ...], peers: Mapping[str, Any] | None = None
) -> Suite:
    integers = function is quantized_linear
    return Suite(
        op=function.__name__,
        function=function,
        reference=quantized_linear_reference if integers else weight_only_linear_reference,
        plain=functools.partial(plain, integers),
        cases=cases,
        differentiable=("x", "bias", "residual") if form == "fused" else ("x",),
        straight_through=integers,
        peers=peers or {},
        rival="torch",
    )


PACKED: tuple[dict[str, Any], ...] = ({}, {"activation": "silu"}, {"scale": 0.5})
FUSED = ({"activation": "gelu"}, {"scale": 0.75, "activation": "silu"})
GATED = ({"activation": "gated_silu"},)


def suites(function: Callable[..., Tensor], formats: tuple[int, int, int], rows: tuple[int, ...]) -> tuple[Suite, ...]:
    eight, four = measured(FORMATS[0], rows), (*measured(FORMATS[1], rows), *measured(FORMATS[2], rows))
    small = tested(formats[0], "packed", *PACKED)
    return (
        suite(function, "packed", (*small[::2], *eight), {"torch": in_bfloat16, "torch_int8": torch_int8}),
        suite(function, "packed", (*small[1::2], *four), {"torch": in_bfloat16}),
        suite(function, "fused", tested(formats[1], "fused", *FUSED)),
        suite(function, "gated", tested(formats[2], "gated", *GATED)),
    )


SUITES = (
    *suites(quantized_linear, (0, 1, 2), (1, 8, 72, 512)),
    *suites(weight_only_linear, (1, 2, 3), (1, 72, 512)),
)
