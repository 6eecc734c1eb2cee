"""What kernels/<op>/cases.py is made of: one table of shapes and inputs that tests and benchmarks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

ANY_DEVICE = ("cpu", "cuda")
MODES = ("forward", "backward", "both")


@dataclass(frozen=True)
class Case:
    """One call of an op.

    make(generator, dtype): the keyword arguments of the public function, CPU tensors in `dtype`.
    flops: of one forward call; elements: the numbers that it must read and write at least once, other_bytes: the same
    of what is not in the op's dtype (pixels, masks, lengths). backward_flops, backward_elements: of the gradients.
    bench: the devices on which to measure this size; such a case is too slow for the tests.
    """

    name: str
    make: Callable[[torch.Generator, torch.dtype], dict[str, Any]]
    flops: int = 0
    elements: int = 0
    other_bytes: int = 0
    backward_flops: int = 0
    backward_elements: int = 0
    bench: tuple[str, ...] = ()

    def work(self, dtype: torch.dtype, mode: str) -> tuple[int, int]:
        """FLOPs and least bytes of the output ("forward"), of the gradients ("backward"), or of both in a row."""
        forward = self.flops, self.elements * dtype.itemsize + self.other_bytes
        backward = self.backward_flops, self.backward_elements * dtype.itemsize + self.other_bytes
        both = forward[0] + backward[0], forward[1] + backward[1]
        return {"forward": forward, "backward": backward, "both": both}[mode]


@dataclass(frozen=True)
class Suite:
    """One public function with its cases.

    function: lynx_engine.ops.<name>, which also takes `backend=` and gives a tensor or several. op: its name in the
    registry.
    reference: the same arguments in plain torch; in float64 it is the truth.
    plain: what a user would write without this op, computed in the dtype of its inputs: the yardstick of error.
    differentiable: the arguments that have gradients; none for an op that writes into its arguments. straight_through:
    the op rounds them, and its gradients are those of the same without rounding, which differences cannot see.
    peers: what a user would call instead, beside `plain`: name -> prepare(arguments) -> call(), where `prepare` does
    what a user does once (pack weights, compile). rival: the peer that benchmarks take unless told otherwise.
    """

    op: str
    function: Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]
    reference: Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]
    plain: Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]
    cases: tuple[Case, ...]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    differentiable: tuple[str, ...] = ()
    straight_through: bool = False
    peers: Mapping[str, Callable[[dict[str, Any]], Callable[[], torch.Tensor | tuple[torch.Tensor, ...]]]] = field(
        default_factory=dict, hash=False
    )
    rival: str = "torch"


@dataclass(frozen=True)
class StaticCase:
    """One way to compile a Triton kernel, for bench.gpu_static: an entry of `STATIC_CASES` in a cuda_triton.py.

    kernel: the @triton.jit function. signature: argument -> Triton's type, as "*bf16" or "i32"; constants: argument ->
    value of a tl.constexpr. divisible_by_16: integers that launches find divisible; pointers are, always.
    options: num_warps, num_stages, ... of the launch. sass: instructions that the machine code must have, as "HGMMA"
    or "LDG.128". arch: the compute capability.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    divisible_by_16: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    sass: tuple[str, ...] = ()
    arch: int = 90
