"""lynx_engine: the fastest and most exact way to run and train Lynx (arXiv 2307.02469)."""

from .config import LynxConfig
from .errors import LynxError

__version__ = "0.1.0"
__all__ = ["LynxConfig", "LynxError", "__version__"]
