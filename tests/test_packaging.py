"""What `pip install .` gives a user: the metadata, and a wheel that carries everything it needs and nothing else."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lynx_engine

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IMPORT_NAMES = {"pillow": "PIL", "pyyaml": "yaml"}  # where they differ from the distribution's name
WHEEL_LIMIT = 30 * 2**20


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the working tree, its staging folder kept out of it so that no file of an older build gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    options = {"--global-option": ["--quiet", "build", f"--build-base={folder / 'build'}"]}
    program = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r}, {options!r})"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def shipped_files() -> set[str]:
    """What a wheel must hold, by the names it has there: lynx_engine/ whole, and the Python of kernels/<op>."""
    package = [path for path in (ROOT / "lynx_engine").rglob("*") if path.is_file()]
    ops = list((ROOT / "kernels").rglob("*.py"))
    names = [path.relative_to(ROOT).as_posix() for path in package]
    names += [f"lynx_engine/{path.relative_to(ROOT).as_posix()}" for path in ops]
    return {name for name in names if "__pycache__" not in name and not name.endswith(".so")}


def test_metadata_names_the_supported_pythons(metadata: Message) -> None:
    assert metadata["Name"] == "lynx-engine"
    assert metadata["Version"] == lynx_engine.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    versions = {line.split(" :: ")[-1] for line in metadata.get_all("Classifier") if ":: 3." in line}
    assert versions == {"3.11", "3.12", "3.13"}


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        native = [name for name in names if name.endswith(".so")]
        assert names - set(native) == shipped_files()
        assert [name.split(".")[0] for name in native] == ["lynx_engine/_C"]
        assert b"libtorch" not in archive.read(native[0])
    assert wheel.stat().st_size < WHEEL_LIMIT


def test_wheel_answers_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Imports come from the unpacked wheel alone, the ops from inside lynx_engine, and a command runs."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        "import lynx_engine, lynx_engine._C as native, lynx_engine.ops as ops\n"
        "print(lynx_engine.__file__, native.__file__, ops.adapter_mlp.__module__, sep='\\n')"
    )
    answer = run_elsewhere(tmp_path, "-c", program)
    package, native, module = answer.splitlines()
    assert Path(package).is_relative_to(tmp_path)
    assert Path(native).is_relative_to(tmp_path)
    assert module == "lynx_engine.kernels.adapter_mlp.op"
    picture = ROOT / "lynx_engine" / "demo" / "assets" / "sample.png"
    command = "import sys; from lynx_engine.cli import main; sys.exit(main(sys.argv[1:]))"
    assert run_elsewhere(tmp_path, "-c", command, "ask", str(picture), "what color is the circle?").strip()


def run_elsewhere(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_requirement_is_pinned() -> None:
    """constraints.txt holds an exact version for all that make installs, and each fits the metadata's range."""
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = dict(line.split("==") for line in lines if line)
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    wanted = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        wanted += extra
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), str(requirement)


def test_every_import_is_declared() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["video"], *extras["cuda"]]
    names = [canonicalize_name(Requirement(requirement).name) for requirement in declared]
    allowed = {IMPORT_NAMES.get(name, name) for name in names} | sys.stdlib_module_names | {"lynx_engine"}
    used = set()
    for path in [*(ROOT / "lynx_engine").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                used.add(node.module.split(".")[0])
    assert used - allowed == set()
