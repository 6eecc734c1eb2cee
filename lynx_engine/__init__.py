"""lynx_engine: the fastest and most exact way to run and train Lynx (arXiv 2307.02469)."""

from . import ops
from .config import LynxConfig
from .errors import LynxError
from .generate import GenerationConfig
from .lynx import Answer, Generation, Lynx
from .native import get_num_threads, set_num_threads

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "Conversation",
    "Generation",
    "GenerationConfig",
    "Lynx",
    "LynxConfig",
    "LynxError",
    "__version__",
    "get_num_threads",
    "ops",
    "set_num_threads",
]
