"""What a user would call instead, by name; an op's own peers stand in its kernels/<op>/cases.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lynx_engine.cases import Suite
from lynx_engine.errors import LynxError

PEERS = ("torch", "torch_compile", "sdpa", "flex", "onednn", "none", "all")

Prepared = Callable[[], Any]
Prepare = Callable[[dict[str, Any]], Prepared]


def peers_of(suite: Suite, chosen: str) -> dict[str, Prepare]:
    """The peers to measure beside `suite`: those that exist of "all", or the one chosen.

    Each takes the arguments of a call, prepares what a user would prepare once (packs weights, compiles), and returns
    the call. LynxError for a name that the op has no peer of.
    """
    own: dict[str, Prepare] = {"torch": _plain(suite), "torch_compile": _compiled(suite), **suite.peers}
    if chosen == "none":
        return {}
    if chosen == "all":
        return own
    if chosen not in own:
        raise LynxError(f"{suite.op} has no peer {chosen!r}; its peers: {', '.join(own)}, none, all")
    return {chosen: own[chosen]}


def default_peer(suite: Suite) -> str:
    """The strongest peer that every machine with torch has: the op's own first one, else plain torch."""
    return next(iter(suite.peers), "torch")


def _plain(suite: Suite) -> Prepare:
    return lambda arguments: lambda: suite.plain(**arguments)


def _compiled(suite: Suite) -> Prepare:
    def prepare(arguments: dict[str, Any]) -> Prepared:
        function = torch.compile(suite.plain, dynamic=False)
        return lambda: function(**arguments)

    return prepare
