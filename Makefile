# make demo    ask the small demo model about the sample picture        make lint    style and types
# make test    the whole test suite                                     make build   (re)build the native module
# make wheel   a wheel in dist/                                         make clean   back to a fresh clone
#
# Needs python3 (3.11 or newer) with venv and a C++17 compiler; cmake, ninja and everything else come from pip.
# A set-up step runs once: a stamp in .venv remembers it, and a changed pin or native source runs it again.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt

# Make's own default for CXX is g++ even where only clang++ exists: try the usual names unless the user chose one.
COMPILERS := $(if $(filter default undefined,$(origin CXX)),c++ g++ clang++,$(CXX))
CXX_FILES := $(shell find csrc kernels -name '*.cpp' -o -name '*.h')

PICTURE  := lynx_engine/demo/assets/sample.png
QUESTION := what color is the circle?

.PHONY: demo test lint build wheel clean
.DELETE_ON_ERROR:

demo: build
	$(BIN)/lynx-engine ask $(PICTURE) "$(QUESTION)"

test: build
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/mypy

build: $(VENV)/.installed

wheel: $(VENV)/.tools
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache lynx_engine/_C*.so

# What a fresh machine may lack, each with the way to get it.
$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("make: $(PYTHON) is Python %d.%d, lynx-engine needs 3.11 or newer; name one: make PYTHON=python3.12" % v[:2])'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments; install its venv package (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@test -f "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || { echo "make: $(PYTHON) has no C headers; install its development package (Debian, Ubuntu: apt install python3-dev)" >&2; exit 1; }
	@for cxx in $(COMPILERS); do echo 'int main() {}' | $$cxx -std=c++17 -x c++ -fsyntax-only - 2>/dev/null && exit 0; done; \
	echo "make: no C++17 compiler among: $(COMPILERS); install g++ or clang++ (Debian, Ubuntu: apt install g++), or name one: make CXX=/path/to/g++" >&2; exit 1
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.tools: $(VENV)/.python constraints.txt
	$(INSTALL) setuptools pybind11 cmake ninja ruff clang-format mypy
	@touch $@

$(VENV)/.installed: $(VENV)/.tools pyproject.toml setup.py CMakeLists.txt $(CXX_FILES)
	$(INSTALL) --no-build-isolation --editable '.[video,test,dev]'
	@touch $@
