"""Everything that a run needs to go on: parameters, optimiser, generators, step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import LynxError


def save_checkpoint(
    path: Path, step: int, trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, config: dict[str, Any]
) -> None:
    """Written under a temporary name, synced, renamed: an interruption leaves the one before."""
    state = {
        "step": step,
        "config": config,
        "parameters": {name: tensor.detach() for name, tensor in trained.items()},
        "optimizer": optimizer.state_dict(),
        "generator": torch.get_rng_state(),
    }
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(
    path: Path, trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, config: dict[str, Any]
) -> int:
    """Put the state back and return the number of steps done. LynxError if it is of another run or damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        stored, saved_config = state["parameters"], state["config"]
    except Exception as error:  # torch.load raises a dozen types on damaged files
        raise LynxError(f"{path}: cannot be read as a checkpoint: {error}") from error
    if saved_config != config:
        changed = [key for key in config if saved_config.get(key) != config[key]]
        raise LynxError(f"{path}: is of a run with other settings ({', '.join(changed)}); delete it to start anew")
    if {name: tuple(t.shape) for name, t in stored.items()} != {name: tuple(t.shape) for name, t in trained.items()}:
        raise LynxError(f"{path}: is of another model; delete it to start anew")
    with torch.no_grad():
        for name, tensor in trained.items():
            tensor.copy_(stored[name])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["generator"])
    return int(state["step"])
