"""Text in and out: tokenizer, prompts, streaming."""

from .padding import pad_rows
from .prompts import PROMPT, encode_chat, render, render_chat
from .special_tokens import SpecialToken, SpecialTokens
from .stream import TextStream
from .tokenizer import Tokenizer

__all__ = [
    "PROMPT",
    "SpecialToken",
    "SpecialTokens",
    "TextStream",
    "Tokenizer",
    "encode_chat",
    "pad_rows",
    "render",
    "render_chat",
]
