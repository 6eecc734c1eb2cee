"""Op packages, one folder per op.

In a checkout the folders live in the top-level `kernels/`, which is deliberately not a package itself: the import name
`kernels` belongs to another project on PyPI. In a wheel they lie beside this file.
"""

from pathlib import Path

_root = Path(__file__).resolve().parents[2]
if (_root / "csrc" / "bindings.cpp").is_file():
    __path__.append(str(_root / "kernels"))
