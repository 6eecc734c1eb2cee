"""Shape contract with named dimensions for code that has no compiled kernel below it: references and fake tensors.

The twin of csrc/core/contract.h, with the same messages.
"""

from __future__ import annotations

import torch

from .errors import LynxError


class Contract:
    """Checks one call's tensors: the first that has a dimension fixes it, later ones must agree."""

    def __init__(self, op: str) -> None:
        self._op = op
        self._sizes: dict[str, int] = {}
        self._set_by: dict[str, str] = {}

    def expect(self, argument: str, tensor: torch.Tensor, dims: str) -> None:
        """`dims` names the axes, as "R D" or "1"; a leading "..." takes any number of axes. LynxError on a mismatch."""
        names = dims.split()
        leading = names[0] == "..."
        shape = tuple(tensor.shape)
        if leading:
            names = names[1:]
        if len(shape) < len(names) or (len(shape) > len(names) and not leading):
            raise LynxError(f"{self._op}: {argument} must be {self._wanted(dims)}, got {list(shape)}")
        for name, size in zip(names, shape[len(shape) - len(names) :], strict=True):
            known = int(name) if name.isdecimal() else self._sizes.setdefault(name, size)
            setter = self._set_by.setdefault(name, argument)
            if known != size:
                because = "" if name.isdecimal() else f" ({name} was set by {setter})"
                raise LynxError(f"{self._op}: {argument} must be {self._wanted(dims)}, got {list(shape)}{because}")

    def _wanted(self, dims: str) -> str:
        known = [f"{name}={self._sizes[name]}" if name in self._sizes else name for name in dims.split()]
        return f"[{', '.join(known)}]"


def dense_like(x: torch.Tensor) -> torch.Tensor:
    """Uninitialised memory of x's shape and dtype without gaps; twice as fast as x.new_empty(x.shape)."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def as_rows(op: str, argument: str, x: torch.Tensor) -> torch.Tensor:
    """[..., D] as expect_rows of csrc/core/contract.h takes it: as it is where dense, else [T, D] with contiguous rows.

    A copy only where no view exists. LynxError for a tensor without axes.
    """
    if x.dim() == 0:
        raise LynxError(f"{op}: {argument} must be [..., D], got []")
    if x.is_contiguous():
        return x
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1]) if x.numel() else x.new_empty(0, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()
