"""Builds lynx_engine._C with CMake and packages kernels/<op> as lynx_engine.kernels.<op>; else see pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def tool(name: str) -> str:
    """The program that pip put beside this Python, which need not be on PATH, else the one on PATH."""
    places = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=places)
    if found is None:
        raise SystemExit(f"lynx_engine._C needs {name} to build, and it is not in {places}: pip install {name}")
    return found


class CMakeBuild(build_ext):
    """Builds the one extension in build/<interpreter tag>, so that a second build compiles only what changed."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        folder = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        cmake = tool("cmake")
        configure = [
            *(cmake, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"),
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",  # an earlier build's may have gone with its build environment
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]
        subprocess.run(configure, check=True)
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(len(os.sched_getaffinity(0))))
        subprocess.run([cmake, "--build", str(folder), "--parallel", jobs], check=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(next(folder.glob("_C*.so")), target)


ops = find_packages("kernels")
setup(
    packages=find_packages(include=["lynx_engine", "lynx_engine.*"]) + [f"lynx_engine.kernels.{op}" for op in ops],
    package_dir={f"lynx_engine.kernels.{op}": f"kernels/{op}" for op in ops if "." not in op},
    ext_modules=[Extension("lynx_engine._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
