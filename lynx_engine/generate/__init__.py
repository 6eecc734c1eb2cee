"""Generation: search settings, greedy, sampling, beam search and beam sampling, and the KV cache."""

from .config import PRESETS, GenerationConfig
from .draws import Draw
from .hypotheses import Answer, GenerationOutput, NewTokens
from .kv_cache import KVCache
from .search import search, stream
from .session import DecoderSession, Session
from .stop import StopStrings, cut_at_stop, held_back

__all__ = [
    "PRESETS",
    "Answer",
    "DecoderSession",
    "Draw",
    "GenerationConfig",
    "GenerationOutput",
    "KVCache",
    "NewTokens",
    "Session",
    "StopStrings",
    "cut_at_stop",
    "held_back",
    "search",
    "stream",
]
