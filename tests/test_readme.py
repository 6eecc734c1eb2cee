"""What README.md and CONTRIBUTING.md show exists: commands parse, imports resolve, links lead to files."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import tyro
from tyro.conf import OmitArgPrefixes

import lynx_engine
from lynx_engine.cli import Command

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [line for line in README.splitlines() if line.startswith("lynx-engine ")]
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    arguments = shlex.split(line, comments=True)[1:]
    command = tyro.cli(Command, args=arguments, config=(OmitArgPrefixes,))
    assert type(command).__name__.lower() == arguments[0]


def test_commands_are_shown() -> None:
    assert {shlex.split(line)[1] for line in COMMANDS} >= {"ask", "chat", "predict", "convert", "info", "train"}


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_use_names_that_exist(snippet: str) -> None:
    """Names imported from lynx_engine, and attributes taken of them."""
    tree = ast.parse(snippet)
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    owners = {name: getattr(lynx_engine, name) for name in names}
    attributes = [
        node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    ]
    missing = [
        f"{a.value.id}.{a.attr}" for a in attributes if a.value.id in owners and not hasattr(owners[a.value.id], a.attr)
    ]
    assert missing == []


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_files(document: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text())
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
