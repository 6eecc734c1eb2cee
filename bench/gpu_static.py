"""Fails when a GPU kernel spills, needs too much shared memory, loses an instruction it must have, or has changed.

    python -m bench.gpu_static             compile, compare with bench/gpu_static.json; on a miss exit code 1, a table
    python -m bench.gpu_static --update    compile, and write the file; refused for a kernel that breaks a limit

Needs no GPU: bench/gpu_build.py compiles every kernels/<op>/cuda_sm<arch>.cu and every case of a
kernels/<op>/cuda_triton.py, and tells how a kernel's folder declares what it must have.

Limits hold for every compiler: no spills, static and dynamic shared memory within what a block may have (232,448 bytes
on sm_90), every required instruction there. The recorded numbers belong to the compiler that gave them; with another
one only the limits are held, and the command says so.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.command import ROOT, run_command, write_whole
from bench.gpu_build import ARCHITECTURES, Built, build_cuda, build_triton
from lynx_engine.errors import LynxError

Record = dict[str, Any]


@dataclass
class GpuStatic:
    """Compare each GPU kernel's registers, spills, shared memory and instructions with the recorded ones."""

    update: bool = False
    """Write what the compilers say to the file."""
    kernels: Path = ROOT / "kernels"
    """Folder of op folders."""
    file: Path = ROOT / "bench" / "gpu_static.json"
    """The recorded numbers."""

    def run(self) -> int:
        recorded = read_records(self.file)
        kernels = build_all(self.kernels)
        if not kernels and not recorded:
            print(f"no GPU kernels in {self.kernels.name}/ yet")
            return 0
        broken = {kernel.name: reasons for kernel in kernels if (reasons := broken_limits(kernel))}
        if self.update and not broken:
            write_whole(self.file, json.dumps({k.name: record(k) for k in kernels}, indent=1) + "\n")
            print(f"{self.file.name}: {len(kernels)} GPU kernels")
            return 0
        for compiler in unrecorded_compilers(recorded, kernels):
            print(f"{compiler} is not the compiler of the record: only the limits are held; --update records it")
        missed = broken if self.update else {**changes(recorded, kernels), **broken}
        return report(missed, len(kernels))


def build_all(folder: Path) -> list[Built]:
    """Every GPU kernel below `folder`."""
    cuda = [kernel for source in sorted(folder.glob("*/*.cu")) for kernel in build_cuda(source, ROOT / "csrc")]
    triton = [kernel for source in sorted(folder.glob("*/cuda_triton.py")) for kernel in build_triton(source)]
    return cuda + triton


def read_records(path: Path) -> dict[str, Record]:
    """Kernel -> what was recorded; nothing where there is no file yet."""
    try:
        records = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {str(name): dict(fields) for name, fields in records.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise LynxError(f"{path}: cannot be read as records of GPU kernels: {error}") from error


def record(kernel: Built) -> Record:
    return {field: value for field, value in dataclasses.asdict(kernel).items() if field != "name"}


def broken_limits(kernel: Built) -> list[str]:
    """What no kernel may do, whatever the record says."""
    shared, limit = kernel.shared_static + kernel.shared_dynamic, ARCHITECTURES[kernel.arch][1]
    broken = []
    if kernel.spill_stores or kernel.spill_loads:
        broken.append(f"spills: {kernel.spill_stores} bytes stored, {kernel.spill_loads} bytes loaded")
    if shared > limit:
        broken.append(f"shared memory: {shared} bytes, sm_{kernel.arch} has {limit}")
    return broken + [f"no {wanted} instruction" for wanted, count in kernel.sass.items() if count == 0]


def changes(recorded: dict[str, Record], kernels: list[Built]) -> dict[str, list[str]]:
    """Kernel -> what is not as recorded, by the same compiler; for better or worse, for the record must follow."""
    found = {name: ["recorded, but no kernel any more"] for name in recorded.keys() - {k.name for k in kernels}}
    for kernel in kernels:
        now, before = record(kernel), recorded.get(kernel.name)
        if before is None:
            found[kernel.name] = ["not recorded"]
        elif before.get("compiler") == kernel.compiler and before != now:
            found[kernel.name] = [
                f"{field}: {before.get(field)} recorded, now {now.get(field)}"
                for field in sorted(before | now)
                if before.get(field) != now.get(field)
            ]
    return found


def unrecorded_compilers(recorded: dict[str, Record], kernels: list[Built]) -> list[str]:
    """Compilers of kernels that another compiler was recorded for."""
    return sorted(
        {k.compiler for k in kernels if k.name in recorded and recorded[k.name].get("compiler") != k.compiler}
    )


def report(missed: dict[str, list[str]], count: int) -> int:
    """Prints what was found; the exit code."""
    if not missed:
        print(f"{count} GPU kernels: no spills, shared memory within limits, required instructions there, as recorded")
        return 0
    table = Table("kernel", "miss")
    for name, reasons in sorted(missed.items()):
        table.add_row(name, "\n".join(reasons))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(f"{len(missed)} misses, {count} GPU kernels; --update records a change that is meant, but no broken limit")
    return 1


if __name__ == "__main__":
    sys.exit(run_command(GpuStatic, "gpu_static"))
