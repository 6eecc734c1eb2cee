"""A row says which machine, commit and time it is of."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bench import stamp

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _ask_anew() -> None:
    stamp.commit.cache_clear()


def test_stamp_names_machine_commit_and_now() -> None:
    made = stamp.Stamp.of("cpu")
    assert made.machine.endswith(" cores")
    assert abs(datetime.fromisoformat(made.time) - datetime.now(UTC)) < timedelta(minutes=1)
    if (ROOT / ".git").exists():
        git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        head = subprocess.run(git, check=True, capture_output=True, text=True).stdout
        assert head.startswith(made.commit.rstrip("+"))


def test_changed_files_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"rev-parse": "0123456789ab\n", "status": " M kernels/adapter_mlp/forward.h\n"}
    monkeypatch.setattr(stamp, "_git", lambda command, *arguments: answers[command])
    assert stamp.commit() == "0123456789ab+"
    stamp.commit.cache_clear()
    answers["status"] = ""
    assert stamp.commit() == "0123456789ab"


def test_outside_a_checkout_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stamp, "_ROOT", tmp_path)
    assert stamp.commit() == "unknown"
