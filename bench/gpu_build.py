"""Compiles GPU kernels without a GPU and reads what the compilers say: registers, spills, shared memory, instructions.

CUDA C++: every kernel of a kernels/<op>/cuda_sm<arch>.cu, compiled by nvcc. Each has a line in its file,

    // static: NAME [sass=HGMMA,LDG.128] [dynamic_shared=BYTES]

with the instructions that its machine code must have and the most dynamic shared memory of a launch, which no compiler
knows. A template's instantiations share their template's line.

Triton: every `StaticCase` (lynx_engine/cases.py) of `STATIC_CASES` in a kernels/<op>/cuda_triton.py.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from bench.command import finished
from lynx_engine.cases import StaticCase
from lynx_engine.errors import LynxError

# Compute capability -> what nvcc calls it (a: with wgmma and TMA) and the shared memory that a block may have.
ARCHITECTURES = {80: ("80", 166_912), 90: ("90a", 232_448)}
NVCC_FLAGS = ("-std=c++17", "-O3", "-DNDEBUG")


@dataclass(frozen=True)
class Built:
    """One compiled kernel. Bytes, but for registers; sass: how often each required instruction occurs."""

    name: str
    compiler: str
    arch: int
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared_static: int
    shared_dynamic: int
    sass: dict[str, int]


def build_cuda(source: Path, include: Path) -> list[Built]:
    """Every kernel of a .cu file. LynxError where a kernel has no `// static:` line or a line no kernel."""
    found = re.fullmatch(r"cuda_sm(\d+)", source.stem)
    arch = int(found[1]) if found else 0
    if arch not in ARCHITECTURES:
        raise LynxError(f"{source}: wanted cuda_sm<arch>.cu with arch one of {', '.join(map(str, ARCHITECTURES))}")
    lines = static_lines(source)
    nvcc = program("nvcc", "it compiles .cu files: install the CUDA toolkit")
    code = ARCHITECTURES[arch][0]
    with tempfile.TemporaryDirectory(prefix="lynx-gpu-") as folder:
        cubin = Path(folder) / "kernels.cubin"
        process = finished(
            *(nvcc, *NVCC_FLAGS, f"-gencode=arch=compute_{code},code=sm_{code}", "-Xptxas", "-v", "-cubin"),
            *(f"-I{include}", f"-I{source.parent}", "-o", cubin, source),
        )
        log, sass = process.stdout + process.stderr, disassembled(cubin)
    release = re.search(r"release [\d.]+, V([\d.]+)", finished(nvcc, "--version").stdout)
    compiler = f"nvcc {release[1] if release else 'unknown'}"
    kernels = [
        built(f"{source.parent.name}/{source.name} {name}", compiler, arch, symbol, log, sass, *line)
        for symbol, name, line in matched(source, lines, list(entries(log)))
    ]
    return sorted(kernels, key=lambda kernel: kernel.name)


StaticLine = tuple[tuple[str, ...], int]


def static_lines(source: Path) -> dict[str, StaticLine]:
    """Kernel -> (required instructions, bytes of dynamic shared memory)."""
    lines: dict[str, StaticLine] = {}
    for number, text in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
        if not text.startswith("// static:"):
            continue
        name, *settings = text.removeprefix("// static:").split() or [""]
        values = dict(setting.partition("=")[::2] for setting in settings)
        if not name or set(values) - {"sass", "dynamic_shared"} or not values.get("dynamic_shared", "0").isdigit():
            raise LynxError(f"{source}:{number}: wanted // static: NAME [sass=HGMMA,LDG.128] [dynamic_shared=BYTES]")
        required = tuple(filter(None, values.get("sass", "").split(",")))
        lines[name] = (required, int(values.get("dynamic_shared", "0")))
    return lines


def matched(source: Path, lines: dict[str, StaticLine], symbols: list[str]) -> Iterator[tuple[str, str, StaticLine]]:
    """(symbol, name with template arguments but no namespace, its line) of every kernel."""
    demangled = finished("c++filt", "-p", *symbols).stdout.splitlines() if symbols else []
    named = {symbol: re.sub(r"^(?:[^<]*::)?", "", full) for symbol, full in zip(symbols, demangled, strict=True)}
    bare = {symbol: name.partition("<")[0] for symbol, name in named.items()}
    if missing := sorted(set(bare.values()) ^ set(lines)):
        raise LynxError(f"{source}: kernels and `// static:` lines differ in {', '.join(missing)}")
    for symbol, name in named.items():
        yield symbol, name, lines[bare[symbol]]


def build_triton(source: Path) -> list[Built]:
    """Every StaticCase of a cuda_triton.py."""
    if importlib.util.find_spec("triton") is None:
        raise LynxError("triton is not installed; it compiles cuda_triton.py: pip install triton")
    cases = getattr(imported(source), "STATIC_CASES", ())
    if not cases:
        raise LynxError(f"{source} has no STATIC_CASES: say there what to compile (lynx_engine.cases.StaticCase)")
    return [build_case(f"{source.parent.name}/{source.name} {case.name}", case) for case in cases]


def build_case(name: str, case: StaticCase) -> Built:
    """Compiles afresh, so that ptxas' words can be read, and in a cache of its own."""
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    arguments = case.kernel.arg_names
    signature = {argument: case.signature.get(argument, "constexpr") for argument in arguments}
    divisible = [
        index
        for index, argument in enumerate(arguments)
        if signature[argument].startswith("*") or argument in case.divisible_by_16
    ]
    source = ASTSource(
        fn=case.kernel,
        signature=signature,
        constexprs=dict(case.constants),
        attrs={(index,): [["tt.divisibility", 16]] for index in divisible},
    )
    log = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="lynx-gpu-") as folder:
        with knobs.nvidia.scope(), knobs.cache.scope(), contextlib.redirect_stdout(log):
            knobs.nvidia.dump_ptxas_log, knobs.cache.dir = True, folder
            kernel = triton.compile(source, target=GPUTarget("cuda", case.arch, 32), options=dict(case.options))
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        sass = disassembled(cubin)
    symbol = kernel.metadata.name
    compiler = f"triton {triton.__version__}"
    return built(name, compiler, case.arch, symbol, log.getvalue(), sass, case.sass, kernel.metadata.shared)


def imported(source: Path) -> ModuleType:
    """A cuda_triton.py as a module: as part of lynx_engine.kernels.<op> where it is, else by its path."""
    name = f"lynx_engine.kernels.{source.parent.name}.{source.stem}"
    with contextlib.suppress(ModuleNotFoundError):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and Path(spec.origin).samefile(source):
            return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(f"{source.parent.name}_{source.stem}", source)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built(
    name: str,
    compiler: str,
    arch: int,
    symbol: str,
    log: str,
    sass: dict[str, list[str]],
    required: tuple[str, ...],
    shared_dynamic: int,
) -> Built:
    """What ptxas' log and the disassembly say of one kernel."""
    said = entries(log)[symbol]
    code = sass.get(symbol, [])
    return Built(
        name=name,
        compiler=compiler,
        arch=arch,
        registers=said["registers"],
        stack=said["stack"],
        spill_stores=said["spill_stores"],
        spill_loads=said["spill_loads"],
        shared_static=said["shared_static"],
        shared_dynamic=shared_dynamic,
        sass={wanted: sum(is_instruction(opcode, wanted) for opcode in code) for wanted in required},
    )


_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_FIELDS = {
    "stack": r"(\d+) bytes stack frame",
    "spill_stores": r"(\d+) bytes spill stores",
    "spill_loads": r"(\d+) bytes spill loads",
    "registers": r"Used (\d+) registers",
    "shared_static": r"(\d+) bytes smem",
}


def entries(log: str) -> dict[str, dict[str, int]]:
    """Kernel's symbol -> what `ptxas -v` says of it and of the functions listed after it, of each the largest."""
    found: dict[str, dict[str, int]] = {}
    _, *parts = _ENTRY.split(log)
    for symbol, text in zip(parts[::2], parts[1::2], strict=True):
        found[symbol] = {
            field: max((int(number) for number in re.findall(pattern, text)), default=0)
            for field, pattern in _FIELDS.items()
        }
    return found


def disassembled(cubin: Path) -> dict[str, list[str]]:
    """Kernel's symbol -> its opcodes, as LDG.E.128."""
    text = finished(program("cuobjdump", "it disassembles: pip install triton"), "-sass", cubin).stdout
    _, *parts = re.split(r"Function : (\S+)", text)
    pattern = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
    return {symbol: pattern.findall(code) for symbol, code in zip(parts[::2], parts[1::2], strict=True)}


def is_instruction(opcode: str, wanted: str) -> bool:
    """LDG.E.128.CONSTANT is an LDG.128: the same name, and at least the parts that are wanted."""
    (name, *parts), (wanted_name, *wanted_parts) = opcode.split("."), wanted.split(".")
    return name == wanted_name and set(wanted_parts) <= set(parts)


def program(name: str, why: str) -> Path:
    """A tool of CUDA from PATH, from CUDA's usual folder, or from Triton's wheel."""
    folders = [Path("/usr/local/cuda/bin")]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        folders.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    found = next(
        (path for path in (shutil.which(name), *(shutil.which(name, path=str(f)) for f in folders)) if path), None
    )
    if found is None:
        raise LynxError(f"{name} is not installed; {why}")
    return Path(found)
