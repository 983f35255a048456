"""Everything of a model but its nodes and weights: unchanged."""

from __future__ import annotations

from typing import Any

from lipcompile.ops import MARK
from lipcompile.text import count
from lipcompile.verifying.comparing import Comparison
from lipcompile.verifying.numbers import Side
from lipcompile.verifying.pair import Pair
from lipcompile.verifying.results import VerifyCheck, some

NAME = "signature"
# Compared elsewhere: nodes, weights and value_info with the rebuilt model, the rest here.
_ELSEWHERE = {
    "ModelProto": {"graph", "metadata_props", "functions"},
    "GraphProto": {"node", "initializer", "value_info"},
}


def check_signature(pair: Pair) -> VerifyCheck:
    """Inputs, outputs, opsets, IR version, producer, functions and documentation."""
    changed = signature_changes(pair)
    if changed:
        return VerifyCheck(NAME, False, f"changed: {some(changed)}")
    before = pair.original.proto
    sizes = f"{count(before.graph.input, 'input')}, {count(before.graph.output, 'output')}"
    versions = f"opset {pair.original.opset}, IR version {before.ir_version}"
    producer = f"producer '{before.producer_name}'"
    how = "unchanged" if pair.change.head is None else "unchanged but for the abstain head"
    return VerifyCheck(NAME, True, f"{how}: {sizes}, {versions}, {producer}")


def signature_changes(pair: Pair) -> list[str]:
    """The fields that changed."""
    before, after = pair.original.proto, pair.hardened.proto
    changed = _changed(before, after) + _changed(before.graph, after.graph)
    if pair.change.head is not None:
        changed = [name for name in changed if name != "output"]
        if list(pair.change.signature(before).graph.output) != list(after.graph.output):
            changed.append("output, by more than the abstain head")
    old, new = list(before.functions), list(after.functions)
    comparison = Comparison(Side(pair.original), Side(pair.hardened))
    if len(old) != len(new) or not all(map(comparison.same, old, new)):
        changed.append("functions")
    foreign, kept = _foreign(before), _foreign(after)
    keys = sorted({*foreign, *kept})
    others = [f"metadata '{key}'" for key in keys if foreign.get(key) != kept.get(key)]
    if not others and list(foreign) != list(kept):
        others.append("order of metadata")
    return changed + others


def _foreign(model: Any) -> dict[str, list[str]]:
    """The metadata of others; a key may stand there more than once."""
    found: dict[str, list[str]] = {}
    for prop in model.metadata_props:
        if not prop.key.startswith(f"{MARK}."):
            found.setdefault(prop.key, []).append(prop.value)
    return found


def _changed(before: Any, after: Any) -> list[str]:
    kind = before.DESCRIPTOR.name
    fields = [f.name for f in before.DESCRIPTOR.fields if f.name not in _ELSEWHERE[kind]]
    return [name for name in fields if getattr(before, name) != getattr(after, name)]
