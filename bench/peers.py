"""What a user would call instead, by name; an op's own peers stand in its kernels/<op>/cases.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from lynx_engine.cases import Suite

Prepared = Callable[[], Any]
Prepare = Callable[[dict[str, Any]], Prepared]


def peer_names(suites: Iterable[Suite]) -> tuple[str, ...]:
    """What `--peer` can name for these ops."""
    own = (name for suite in suites for name in suite.peers)
    return tuple(dict.fromkeys(("torch", "torch_compile", *own, "none", "all")))


def peers_of(suite: Suite, chosen: str) -> dict[str, Prepare]:
    """The peers to measure beside `suite`: all that it has, the one chosen, or none where the op has none of that name.

    Each takes the arguments of a call, prepares what a user would prepare once (packs weights, compiles), and returns
    the call.
    """
    own: dict[str, Prepare] = {"torch": _plain(suite), "torch_compile": _compiled(suite), **suite.peers}
    if chosen == "all":
        return own
    return {name: peer for name, peer in own.items() if name == chosen}


def _plain(suite: Suite) -> Prepare:
    return lambda arguments: lambda: suite.plain(**arguments)


def _compiled(suite: Suite) -> Prepare:
    def prepare(arguments: dict[str, Any]) -> Prepared:
        torch._dynamo.config.recompile_limit = 256  # beyond 8 shapes of a suite it would silently run uncompiled
        function = torch.compile(suite.plain, dynamic=False)
        return lambda: function(**arguments)

    return prepare
