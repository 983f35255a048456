"""Everything of a model but its nodes and weights: unchanged."""

from __future__ import annotations

from typing import Any

from lipcompile.ops import MARK
from lipcompile.text import count
from lipcompile.verifying.pair import Pair
from lipcompile.verifying.results import VerifyCheck, some

_ELSEWHERE = {"ModelProto": {"graph", "metadata_props"}, "GraphProto": {"node", "initializer"}}


def check_signature(pair: Pair) -> VerifyCheck:
    """Inputs, outputs, opsets, IR version, producer, functions and documentation."""
    before, after = pair.original.proto, pair.hardened.proto
    changed = _changed(before, after) + _changed(before.graph, after.graph)
    changed += [
        f"metadata '{key}'"
        for key in sorted({*pair.original.metadata, *pair.hardened.metadata})
        if not key.startswith(f"{MARK}.")
        and pair.original.metadata.get(key) != pair.hardened.metadata.get(key)
    ]
    if changed:
        return VerifyCheck("signature", False, f"changed: {some(changed)}")
    sizes = f"{count(before.graph.input, 'input')}, {count(before.graph.output, 'output')}"
    versions = f"opset {pair.original.opset}, IR version {before.ir_version}"
    producer = f"producer '{before.producer_name}'"
    return VerifyCheck("signature", True, f"unchanged: {sizes}, {versions}, {producer}")


def _changed(before: Any, after: Any) -> list[str]:
    kind = before.DESCRIPTOR.name
    fields = [f.name for f in before.DESCRIPTOR.fields if f.name not in _ELSEWHERE[kind]]
    return [name for name in fields if getattr(before, name) != getattr(after, name)]
