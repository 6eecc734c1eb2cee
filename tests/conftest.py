"""Shared fixtures of the test suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny_release import train_tokenizer

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
