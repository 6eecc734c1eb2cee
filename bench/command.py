"""`python -m bench.<name>`: arguments by a dataclass, a user's mistake as one line on standard error and exit code 2.

And what commands share that run other programs.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import tyro

from lynx_engine.errors import LynxError

ROOT = Path(__file__).resolve().parents[1]


class Command(Protocol):
    """A dataclass of options; `run` gives the exit code."""

    def run(self) -> int: ...


def run_command(command: type[Command], name: str) -> int:
    """Run `command` with the process's arguments: its exit code, 2 for wrong input, 130 when interrupted."""
    prog = f"python -m bench.{name}"
    try:
        return _parse(command, prog).run()
    except LynxError as error:
        print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130


def _parse(command: type[Command], prog: str) -> Command:
    """The command, or a LynxError with tyro's explanation folded to one line."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(command, prog=prog)
    except SystemExit as end:
        if not end.code:
            raise
        raise LynxError(re.sub(r"[╭╮╰╯│─]+", " ", errors.getvalue())) from None


def write_whole(path: Path, text: str) -> None:
    """Written under a temporary name, synced, renamed: an interruption leaves the file that was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def finished(*command: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A program that ended well in `folder`, with its output. LynxError with its last lines where it failed."""
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if process.returncode != 0:
        last = (process.stdout + process.stderr).splitlines()[-12:]
        raise LynxError(f"{' '.join(map(str, command))}: exit code {process.returncode}: {' | '.join(last)}")
    return process


@contextlib.contextmanager
def tree_of(revision: str) -> Iterator[Path]:
    """A work tree of a revision, gone afterwards. LynxError for one that does not exist."""
    with tempfile.TemporaryDirectory(prefix="lynx-base-") as folder:
        tree = Path(folder) / "tree"
        finished("git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", tree, revision)
        try:
            yield tree
        finally:
            finished("git", "-C", ROOT, "worktree", "remove", "--force", tree)
