# make demo     ask the small demo model about the sample picture
# make test     the whole test suite              make lint     style and types
# make build    recompile what has changed        make clean    back to a fresh clone
# make sanitize    the kernels' tests on a build with AddressSanitizer and UndefinedBehaviorSanitizer
# make bench-gates    what must not get slower    make bench-readme   the READMEs' tables from bench/results
#
# make EXTRAS=video,test,dev,bench,cuda test    with the Triton kernels, by their interpreter: 1 GB more in .venv
#
# Needs python3 (3.11 or newer) with venv and C headers, and a C++17 compiler; everything else, cmake and ninja
# included, comes from pip. A set-up step runs once: a stamp in .venv remembers it, and a changed pin or native source
# runs it again.

PYTHON  ?= python3
EXTRAS  ?= video,test,dev,bench
VENV    := .venv
BIN     := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# Make's own default for CXX is g++ even where only clang++ exists: try the usual names unless the user chose one.
COMPILERS := $(if $(filter default undefined,$(origin CXX)),c++ g++ clang++,$(CXX))
NATIVE    := $(shell find csrc kernels -name '*.cpp' -o -name '*.h')

PICTURE  := lynx_engine/demo/assets/sample.png
QUESTION := what color is the circle?

.PHONY: demo test sanitize lint build clean bench-gates bench-readme

demo: build
	$(BIN)/lynx-engine ask $(PICTURE) "$(QUESTION)"

test: build
	$(BIN)/python -m pytest $(PYTEST_ARGS)

sanitize: build
	$(BIN)/python tests/sanitized.py $(PYTEST_ARGS)

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(NATIVE) $(wildcard tests/*.cpp bench/native/*.cpp bench/native/*.h bench/native/ops/*.cpp)
	$(BIN)/mypy

# Instruction counts, GPU kernels' machine code, ratios to torch: about three minutes (CONTRIBUTING.md says what each sees).
bench-gates: build
	$(BIN)/python -m bench.instructions
	$(BIN)/python -m bench.gpu_static || [ $$? -eq 2 ]  # 2: triton is not installed, which is said
	$(BIN)/python -m pytest bench/test_regression.py -q --benchmark-disable-gc --benchmark-json=build/benchmark.json

bench-readme: build
	$(BIN)/python -m bench.tables

build: $(VENV)/.built

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache lynx_engine/_C*.so

# What a fresh machine may lack, each with the way to get it.
fail = { echo "make: $(1)" >&2; exit 1; }

$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null \
	|| $(call fail,no $(PYTHON) here: install Python 3.11 or newer or name one: make PYTHON=/path/to/python3)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| $(call fail,$(PYTHON) is older than 3.11: name a newer one: make PYTHON=/path/to/python3)
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	|| $(call fail,$(PYTHON) cannot make virtual environments: install its venv package (Debian: python3-venv))
	@test -f "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" \
	|| $(call fail,$(PYTHON) has no C headers: install its development package (Debian: python3-dev))
	@for cxx in $(COMPILERS); do \
	  echo 'int main() {}' | $$cxx -std=c++17 -x c++ -fsyntax-only - 2>/dev/null && exit; \
	done; \
	$(call fail,no C++17 compiler among $(COMPILERS): install g++ or clang++ or name one: make CXX=/path/to/g++)
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# The build's own requirements first, pinned like the rest: an isolated build environment would not see the pins.
$(VENV)/.tools: $(VENV)/.python constraints.txt
	$(INSTALL) setuptools pybind11 cmake ninja
	@touch $@

$(VENV)/.built: $(VENV)/.tools pyproject.toml setup.py CMakeLists.txt $(NATIVE)
	$(INSTALL) --no-build-isolation --editable '.[$(EXTRAS)]'
	@touch $@
