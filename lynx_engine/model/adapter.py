"""The trained bottleneck after a decoder layer (LYNX.md section 1, REFERENCE.md section 5.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops


class Adapter(nn.Module):
    """y = x + scaling * (up silu(down LN(x) + b_down) + b_up), bottleneck hidden_size // 2."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.scaling = nn.Parameter(torch.ones(1))
        self.adapter_norm_before = nn.LayerNorm(hidden_size, eps=1e-5)
        self.adapter_down = nn.Linear(hidden_size, hidden_size // 2)
        self.adapter_up = nn.Linear(hidden_size // 2, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        norm, down, up = self.adapter_norm_before, self.adapter_down, self.adapter_up
        return ops.adapter_mlp(
            x, norm.weight, norm.bias, down.weight, down.bias, up.weight, up.bias, self.scaling, eps=norm.eps
        )
