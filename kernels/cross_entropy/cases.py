"""Shapes of the losses: Lynx's for the benchmarks, small and awkward ones for the tests."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lynx_engine.cases import ANY_DEVICE, Case, Suite

from .op import cross_entropy, fused_linear_cross_entropy
from .reference import cross_entropy_reference, fused_linear_cross_entropy_reference

LYNX_V, LYNX_D = 32001, 4096
IGNORE = -100
Options = dict[str, Any]
TESTED: tuple[tuple[int, int, Options], ...] = (
    # T, V, options
    (1, 64, {}),
    (5, 48, {"label_smoothing": 0.1}),
    (63, 65, {"reduction": "sum"}),
    (9, 1, {}),
    (17, 31, {"ignore_index": 3}),
    (7, 4999, {"label_smoothing": 0.25}),
    (301, 96, {"reduction": "none", "label_smoothing": 0.1}),
    (0, 64, {"reduction": "sum"}),
    (3, 2048, {"reduction": "none"}),
)
FUSED: tuple[tuple[int, int, int, Options], ...] = (
    # T, V, D, options
    (4, 64, 8, {}),
    (9, 65, 24, {"label_smoothing": 0.1}),
    (63, 301, 33, {"reduction": "sum"}),
    (40, 3001, 16, {"label_smoothing": 0.1}),
    (0, 64, 8, {"reduction": "sum"}),
)


def labels_of(T: int, V: int, options: Options, generator: torch.Generator) -> Tensor:
    """Every third token does not count, but for the first."""
    labels = torch.randint(0, V, (T,), generator=generator)
    labels[1::3] = options.get("ignore_index", IGNORE)
    return labels


def make(T: int, V: int, options: Options, generator: torch.Generator, dtype: torch.dtype) -> Options:
    """Logits of a model that knows something: a few units of spread."""
    logits = (torch.randn(T, V, generator=generator) * 3).to(dtype)
    return {"logits": logits, "labels": labels_of(T, V, options, generator), **options}


def make_fused(T: int, V: int, D: int, options: Options, generator: torch.Generator, dtype: torch.dtype) -> Options:
    hidden = torch.randn(T, D, generator=generator).to(dtype)
    weight = (torch.randn(V, D, generator=generator) * 3 * D**-0.5).to(dtype)
    return {"hidden": hidden, "weight": weight, "labels": labels_of(T, V, options, generator), **options}


def case(T: int, V: int, options: Options, *, bench: tuple[str, ...] = ()) -> Case:
    words = " ".join(f"{name}={value}" for name, value in options.items())
    return Case(
        name=f"T={T} V={V} {words}".strip(),
        make=functools.partial(make, T, V, options),
        flops=3 * T * V,
        elements=T * V,
        backward_flops=3 * T * V,
        backward_elements=2 * T * V,
        bench=bench,
    )


def fused_case(T: int, V: int, D: int, options: Options, *, bench: tuple[str, ...] = ()) -> Case:
    words = " ".join(f"{name}={value}" for name, value in options.items())
    return Case(
        name=f"T={T} V={V} D={D} {words}".strip(),
        make=functools.partial(make_fused, T, V, D, options),
        flops=2 * T * V * D,
        elements=T * D + V * D,
        backward_flops=4 * T * V * D,
        backward_elements=2 * (T * D + V * D),
        bench=bench,
    )


def plain_cross_entropy(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return F.cross_entropy(logits, labels, **options)


def plain_fused(hidden: Tensor, weight: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Head, then loss."""
    return F.cross_entropy(F.linear(hidden, weight), labels, **options)


SUITES = (
    Suite(
        op="cross_entropy",
        function=cross_entropy,
        reference=cross_entropy_reference,
        plain=plain_cross_entropy,
        cases=(
            *(case(*sizes) for sizes in TESTED),
            *(case(T, LYNX_V, {}, bench=ANY_DEVICE) for T in (72, 512)),
            case(512, LYNX_V, {"label_smoothing": 0.1}, bench=ANY_DEVICE),
        ),
        differentiable=("logits",),
    ),
    Suite(
        op="fused_linear_cross_entropy",
        function=fused_linear_cross_entropy,
        reference=fused_linear_cross_entropy_reference,
        plain=plain_fused,
        cases=(
            *(fused_case(*sizes) for sizes in FUSED),
            *(fused_case(T, LYNX_V, LYNX_D, {}, bench=ANY_DEVICE) for T in (72, 512)),
        ),
        differentiable=("hidden", "weight"),
    ),
)
