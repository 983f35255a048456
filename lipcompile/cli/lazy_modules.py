"""Modules that other packages import at once, and the command line hardly ever needs.

onnx-ir imports SymPy for arithmetic on symbolic dimensions, of which LipCompile does none; it
takes as long as everything else that `lipcompile inspect` imports. So in a process of our own
these modules load when they are first looked into.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# The module of onnx-ir that looks into SymPy when it is imported, and SymPy itself.
_LATER = frozenset({"sympy", "onnx_ir._symbolic_shapes"})


def load_later() -> None:
    """Has the modules load when they are used; where they are called otherwise, nothing
    changes."""
    if not any(isinstance(finder, _LaterFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LaterFinder())


class _LaterFinder:
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in _LATER else None
        if spec is None or spec.loader is None:
            return None
        spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec
