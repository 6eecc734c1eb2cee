"""The plan of the house holds: imports point down the floors, and the laws that a parser can check are kept."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Bottom up. A module may import its own part and every part of a lower floor.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"errors"}),
    frozenset({"env", "config", "eager", "_C"}),
    frozenset({"native", "cuda"}),
    frozenset({"registry", "contract", "cases", "packing", "device"}),
    frozenset({"yardstick"}),
    frozenset({"kernels"}),
    frozenset({"ops"}),
    frozenset({"model", "text", "media", "weights"}),
    frozenset({"generate"}),
    frozenset({"lynx"}),
    frozenset({"chat"}),
    frozenset({"__init__"}),
    frozenset({"train", "serve", "eval", "demo", "info"}),
    frozenset({"cli", "__main__"}),
)
LEVEL = {part: level for level, floor in enumerate(FLOORS) for part in floor}
ON_ONE_FLOOR = {("weights", "model"), ("weights", "text")}  # a release's loader builds the model and the tokenizer

PYTHON = sorted(path for folder in ("lynx_engine", "kernels") for path in (ROOT / folder).rglob("*.py"))
NATIVE = sorted(
    path for folder in ("csrc", "kernels") for path in (ROOT / folder).rglob("*.*") if path.suffix in {".cpp", ".h"}
)
MAX_FILE_LINES, MAX_FUNCTION_LINES = 500, 60


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def package_of(path: Path) -> list[str]:
    """The package that relative imports of a file start from: kernels/norm/op.py -> [lynx_engine, kernels, norm]."""
    folders = list(path.relative_to(ROOT).parent.parts)
    return folders if folders[0] == "lynx_engine" else ["lynx_engine", *folders]


def imported(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a file imports, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            module = [*above, *([node.module] if node.module else [])]
            yield from ((node.lineno, ".".join([*module, alias.name])) for alias in node.names)


def part_of(dotted: str) -> str:
    """lynx_engine.model.vision -> model; a name that the package itself offers belongs to its __init__."""
    name = dotted.split(".")[1] if "." in dotted else "__init__"
    return name if name in LEVEL else "__init__"


def climbs(source: str, path: Path) -> list[str]:
    """The imports of a file that do not point down, as `file:line part imports part`."""
    package = package_of(path)
    own = package[1] if len(package) > 1 else path.stem
    found = []
    for line, name in imported(ast.parse(source), package):
        if name.split(".")[0] != "lynx_engine":
            continue
        part = part_of(name)
        if part != own and LEVEL[part] >= LEVEL[own] and (own, part) not in ON_ONE_FLOOR:
            found.append(f"{relative(path)}:{line} {own} imports {part}")
    return found


def test_imports_point_down() -> None:
    assert [climb for path in PYTHON for climb in climbs(path.read_text(), path)] == []


@pytest.mark.parametrize(
    ("where", "source", "parts"),
    [
        ("lynx_engine/text/prompts.py", "from ..generate import search", "text imports generate"),
        ("lynx_engine/text/prompts.py", "def f():\n    import lynx_engine.media.image", "text imports media"),
        ("lynx_engine/model/vision.py", "from lynx_engine import Lynx", "model imports __init__"),
        ("lynx_engine/train/loop.py", "from .. import demo", "train imports demo"),
        ("lynx_engine/registry.py", "from .kernels.norm import op", "registry imports kernels"),
        ("kernels/norm/op.py", "from ...ops import linear", "kernels imports ops"),
    ],
)
def test_an_import_that_points_up_is_found(where: str, source: str, parts: str) -> None:
    (found,) = climbs(source, ROOT / where)
    assert found.endswith(parts)


def test_every_module_has_a_floor() -> None:
    parts = {[*package_of(path), path.stem][1] for path in PYTHON}
    assert parts - set(LEVEL) == set()


def test_ops_do_not_import_each_other() -> None:
    """Everything about an op is in its folder."""
    found = []
    for path in (ROOT / "kernels").rglob("*.py"):
        package = package_of(path)
        for line, name in imported(ast.parse(path.read_text()), package):
            if name.startswith("lynx_engine.kernels.") and name.split(".")[2] != package[2]:
                found.append(f"{relative(path)}:{line} imports {name}")
    assert found == []


def test_kernels_is_no_package_of_its_own() -> None:
    """The import name `kernels` belongs to another project."""
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_native_code_includes_only_what_lies_below() -> None:
    """No libtorch; csrc/ knows no op; an op includes its own folder and csrc/."""
    found = []
    for path in NATIVE:
        own = path.relative_to(ROOT).parts[:2]
        for bracket, name in re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', path.read_text(), re.MULTILINE):
            if name == f"{own[1]}_backends.h":  # CMake writes it: the instruction sets that the op has a file for
                continue
            homes = [base / name for base in (path.parent, ROOT / "csrc", ROOT) if (base / name).is_file()]
            parts = homes[0].resolve().relative_to(ROOT).parts if homes else ("nowhere",)
            if bracket == "<" and name.startswith(("torch/", "ATen/", "c10/")):
                found.append(f"{relative(path)} includes {name}")
            if bracket == '"' and parts[0] != "csrc" and parts[:2] != own:
                found.append(f"{relative(path)} includes {name} of {parts[0]}")
    assert found == []


def test_only_env_reads_the_environment() -> None:
    found = []
    for path in PYTHON:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}:
                found.append(f"{relative(path)}:{node.lineno}")
    assert [place for place in found if not place.startswith("lynx_engine/env.py")] == []


def test_parses_as_the_oldest_python() -> None:
    for path in PYTHON:
        ast.parse(path.read_text(), filename=relative(path), feature_version=(3, 11))


def test_no_screen_is_too_long() -> None:
    """One idea a screen: files and functions have a limit (bodies of native kernels excepted)."""
    long = [relative(path) for path in PYTHON + NATIVE if len(path.read_text().splitlines()) > MAX_FILE_LINES]
    for path in PYTHON:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{relative(path)}:{node.lineno} {node.name} has {lines} lines")
    assert long == []
