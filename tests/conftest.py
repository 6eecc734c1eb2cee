"""Shared fixtures of the test suite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_release import train_tokenizer

from lynx_engine import native, registry

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """The recorded inputs and outputs of the authors' code, which a user's clone does not have."""
    folder = Path(os.environ.get("LYNX_FIXTURES", ROOT.parent / "shared" / "fixtures"))
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"reference fixtures are not at {folder}; set LYNX_FIXTURES to their folder")
    return folder


@pytest.fixture(scope="session")
def tokenizer_model() -> bytes:
    """A small sentencepiece model with byte fallback, as LLaMA's."""
    return train_tokenizer()


@pytest.fixture(params=["reference", "cpu_avx2", "cpu_avx512"])
def float32_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every op on one backend for float32 that this machine can run, and on no other."""
    yield from _on_backend(request.param, monkeypatch)


@pytest.fixture(params=["reference", "cpu_avx2", "cpu_avx512", "cpu_amx"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same with AMX, which takes bfloat16 only; on emulated tiles where the machine has none."""
    monkeypatch.setenv("LYNX_EMULATE_AMX", "1")
    yield from _on_backend(request.param, monkeypatch)


@pytest.fixture(params=["reference", "cpu_avx2", "cpu_avx512", "cpu_avx512_bf16", "cpu_amx"])
def any_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same with cpu_avx512_bf16, for ops that have it."""
    monkeypatch.setenv("LYNX_EMULATE_AMX", "1")
    yield from _on_backend(request.param, monkeypatch)


def _on_backend(backend: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # norms and the like have no cpu_amx
    monkeypatch.setenv("LYNX_BACKEND", "cpu_amx,cpu_avx512" if backend == "cpu_amx" else backend)
    registry.refresh()
    refused = () if backend == "reference" else native.isa_refusals(backend.removeprefix("cpu_"))
    if refused:
        monkeypatch.undo()
        registry.refresh()
        pytest.skip("; ".join(refused))
    yield backend
    monkeypatch.undo()
    registry.refresh()
