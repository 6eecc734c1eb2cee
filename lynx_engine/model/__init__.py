"""The model as nn.Modules; no kernel code inside, the arithmetic that matters is in `ops`."""

from .init import init_parameters
from .lynx import IGNORE_INDEX, LynxModel, LynxOutput

__all__ = ["IGNORE_INDEX", "LynxModel", "LynxOutput", "init_parameters"]
