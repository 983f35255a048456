"""Inline local functions with onnx-ir, in time linear in what they become."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, inliner

_SWAPPING = threading.Lock()
_NAMING = "_make_unique_name"


def inline(model: ir.Model, wanted: Callable[[ir.Function], bool]) -> None:
    """Replaces calls of the functions that are `wanted` by their bodies, in place.

    Raises:
        Exception: Whatever onnx-ir raises where they cannot be inlined.
    """
    with _quick_names():
        InlinePass(wanted)(model)


@contextlib.contextmanager
def _quick_names() -> Iterator[None]:
    """Lets onnx-ir find free names at once.

    Its inliner tries "x", "x_2", "x_3", ... anew for each "x" (`_make_unique_name` in
    onnx_ir/passes/common/inliner.py of 1.1), so that 4,096 nodes of one name take half a
    minute. Names that are used stay used, hence the search may go on where it ended; it finds
    the same names.
    """
    tried: dict[tuple[int, str], int] = {}

    def free_name(name: str, _: object, used: set[str]) -> str:
        candidate, number = name, tried.get((id(used), name), 1)
        while candidate in used:
            number += 1
            candidate = f"{name}_{number}"
        tried[id(used), name] = number
        used.add(candidate)
        return candidate

    with _SWAPPING:
        theirs = getattr(inliner, _NAMING, None)
        if theirs is None:  # another version of onnx-ir
            yield
            return
        setattr(inliner, _NAMING, free_name)
        try:
            yield
        finally:
            setattr(inliner, _NAMING, theirs)
