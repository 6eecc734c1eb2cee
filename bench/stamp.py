"""Where and when a row was measured."""

from __future__ import annotations

import datetime
import functools
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Stamp:
    """The last fields of a row: the processor with its cores, or the GPU; the commit; the time in UTC."""

    machine: str
    commit: str
    time: str

    @classmethod
    def of(cls, device: str) -> Stamp:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(machine(device), commit(), now)


@functools.cache
def machine(device: str) -> str:
    """As "Intel(R) Xeon(R) Processor, 2 cores", or the GPU's name."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


@functools.cache
def commit() -> str:
    """The checkout's commit, with "+" where code has changed since; "unknown" outside a checkout."""
    try:
        name = _git("rev-parse", "--short=12", "HEAD").strip()
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + ("+" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=_ROOT, check=True, capture_output=True, text=True).stdout
