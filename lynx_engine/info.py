"""What `lynx-engine info` reports: the machine, the backends of every op with reasons, versions, a model's parts."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__, native, registry, weights
from .config import LynxConfig
from .env import CPU_ISAS
from .errors import LynxError

_PACKAGES = ("torch", "numpy", "safetensors", "sentencepiece", "pillow", "av")


def describe(*, model: str | Path | None = None, preset: str | None = None) -> dict[str, Any]:
    """Everything `info` prints, as JSON-ready values. A model is read from its headers; nothing is allocated."""
    if model is not None and preset is not None:
        raise LynxError("info takes --model or --preset, not both")
    report: dict[str, Any] = {"machine": _machine(), "versions": _versions(), "ops": _ops()}
    if model is not None or preset is not None:
        config = LynxConfig.preset(preset) if preset is not None else weights.read_config(model or "")
        counts = weights.count_parameters(config)
        report["model"] = {"name": config.name, "parts": counts.parts, "total": counts.total, "trained": counts.trained}
    if model is not None:
        quantization = weights.read_quantization(model)
        linears = "" if quantization is None else f", linears {quantization}"
        report["model"]["stored"] = weights.read_stored_dtype(model) + linears
    return report


def render(report: dict[str, Any]) -> str:
    """The report as text."""
    machine = report["machine"]
    lines = [
        f"machine   {machine['processor']}, {machine['cores']} cores, {machine['threads']} threads in use",
        f"isa       {', '.join(machine['isa']) or 'none that has kernels'}",
        "versions  " + ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
    ]
    for op, backends in report["ops"].items():
        lines.append(f"{op}")
        lines += [f"  {name:<15} {'; '.join(reasons) or 'ready'}" for name, reasons in backends.items()]
    if "model" in report:
        lines += ["", *_model_lines(report["model"])]
    return "\n".join(lines)


def _model_lines(model: dict[str, Any]) -> list[str]:
    rows = [(part, count) for part, count in model["parts"].items()]
    rows += [("total", model["total"]), ("trained", model["trained"])]
    stored = f", stored as {model['stored']}" if "stored" in model else ""
    return [f"model     {model['name']}{stored}", *(f"  {part:<28} {count:>16,}" for part, count in rows)]


def _machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": native.get_num_threads(),
        "isa": [isa for isa in CPU_ISAS if not native.isa_refusals(isa)],
        "amx": "emulated" if native.emulates_amx() else "hardware or none",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    versions = {"lynx_engine": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _ops() -> dict[str, dict[str, list[str]]]:
    """Of every op and backend the reasons for which it cannot run on this machine; none where it can."""
    return {
        name: {backend.name: list(backend.machine_refusals()) for backend in op.backends}
        for name, op in registry.ops().items()
    }
