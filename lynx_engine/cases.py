"""What kernels/<op>/cases.py is made of: one table of shapes and inputs that tests and benchmarks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """One call of an op.

    make(generator, dtype): the keyword arguments of the public function, CPU tensors in `dtype`.
    flops, bytes: of one forward call; bytes are what must be read and written at least once, at 2 bytes an element.
    bench: a size to measure; such a case is too slow for the tests.
    """

    name: str
    make: Callable[[torch.Generator, torch.dtype], dict[str, Any]]
    flops: int = 0
    bytes: int = 0
    bench: bool = False


@dataclass(frozen=True)
class Suite:
    """One public function with its cases.

    function: lynx_engine.ops.<name>, which also takes `backend=`. op: the name in the registry.
    reference: the same arguments in plain torch; in float64 it is the truth.
    plain: what a user would write without this op, computed in the dtype of its inputs: the yardstick of error.
    differentiable: the arguments that have gradients.
    """

    op: str
    function: Callable[..., torch.Tensor]
    reference: Callable[..., torch.Tensor]
    plain: Callable[..., torch.Tensor]
    cases: tuple[Case, ...]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    differentiable: tuple[str, ...] = ()
