"""Every op as a function: `lynx_engine.ops.adapter_mlp(...)`.

The folders of kernels/ are found, not listed: each op.py exports its public functions by `__all__`.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from . import kernels

if TYPE_CHECKING:
    from .cases import Suite

OP_FOLDERS = tuple(sorted(m.name for m in pkgutil.iter_modules(kernels.__path__) if m.ispkg))
__all__: list[str] = []

for _folder in OP_FOLDERS:
    _module = importlib.import_module(f"{kernels.__name__}.{_folder}.op")
    for _name in _module.__all__:
        globals()[_name] = getattr(_module, _name)
        __all__.append(_name)


def suites() -> tuple[Suite, ...]:
    """The test and benchmark cases of every op (kernels/<op>/cases.py)."""
    modules = [importlib.import_module(f"{kernels.__name__}.{folder}.cases") for folder in OP_FOLDERS]
    return tuple(suite for module in modules for suite in module.SUITES)


def folder_of(name: str) -> str:
    """The folder of kernels/ that a public function comes from."""
    folder: str = globals()[name].__module__.rsplit(".", 2)[-2]
    return folder


def __getattr__(name: str) -> Any:
    raise AttributeError(f"lynx_engine.ops has no op {name!r}; ops: {', '.join(__all__)}")
