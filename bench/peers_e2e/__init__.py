"""What a user would run Lynx's decoder with instead: each peer in a file of its own, none of them a dependency.

A peer holds the same weights as ours, the adapters included, and takes the same embeddings, so that its logits can be
compared before anything is timed. Adding one = a file with `load(subject) -> PeerModel` and a line in `PEERS`; a line
with `form` is that file's peer in other bits: `load(subject, form)`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from lynx_engine.errors import LynxError

if TYPE_CHECKING:
    from bench.parts.subject import Subject
    from lynx_engine.generate import GenerationConfig

Run = Callable[[], Tensor]
MIN_COSINE = 0.995  # transformers in bfloat16 has 0.9998 at lynx_8b/8; one wrong rounding of RoPE had 0.992


class PeerModel(Protocol):
    """Each method prepares one call to be timed, or returns None for what the peer does not do.

    min_cosine: how like ours its logits must be, for it to be timed at all.
    """

    min_cosine: float

    def prefill(self, embeds: Tensor) -> Run | None:
        """Logits [1, V] behind embeddings [1, S, H], from nothing, with a cache to go on from."""

    def decode(self, embeds: Tensor, token_ids: Tensor) -> Run | None:
        """Logits [B, V] after one new token [B, 1] in B rows that all continue `embeds`; every call does the same."""

    def answer(self, embeds: Tensor, generation: GenerationConfig) -> Run | None:
        """The ids [1, T] of the best answer of a beam search."""


@dataclass(frozen=True)
class Peer:
    """A module with `load`, the packages that it needs, the arguments of `pip install` for them.

    form: the bits of a peer that has its own, whatever the subject has.
    """

    module: str
    packages: tuple[str, ...]
    install: str
    form: str | None = None


_LLAMA_CPP = Peer(
    "bench.peers_e2e.llama_cpp",
    ("llama_cpp", "gguf"),
    "-c constraints.txt gguf llama-cpp-python (built from its sources, by a C++ compiler)",
)

PEERS = {
    "transformers": Peer("bench.peers_e2e.transformers_llama", ("transformers",), "-c constraints.txt transformers"),
    # without its dependencies, since all that is missing then is the package that reports every import to its maker
    "openvino": Peer("bench.peers_e2e.openvino_llama", ("openvino",), "-c constraints.txt --no-deps openvino"),
    "llama_cpp": _LLAMA_CPP,
    **{f"llama_cpp_{form}": replace(_LLAMA_CPP, form=form) for form in ("q8_0", "q4_0")},
}


def chosen_peers(peer: str) -> tuple[str, ...]:
    """The names that `--peer` means."""
    if peer in ("none", "all"):
        return tuple(PEERS) if peer == "all" else ()
    if peer not in PEERS:
        raise LynxError(f"unknown peer {peer!r}; peers: none, {', '.join(PEERS)}, all")
    return (peer,)


def load_peer(name: str, subject: Subject) -> PeerModel:
    """The peer around the subject's own weights. LynxError where its packages are not installed, or it has no twin."""
    peer = PEERS[name]
    if subject.quantize is not None and peer.form is None:
        others = ", ".join(other for other, entry in PEERS.items() if entry.form)
        raise LynxError(
            f"peer {name} has weights of 16 or 32 bits, ours {subject.quantize}; peers with fewer: {others}"
        )
    try:
        module = importlib.import_module(peer.module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in peer.packages:
            raise
        raise LynxError(f"peer {name} is not installed: pip install {peer.install}") from error
    model: PeerModel = module.load(subject) if peer.form is None else module.load(subject, peer.form)
    return model
