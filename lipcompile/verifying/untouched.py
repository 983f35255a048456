"""What the provenance does not name stands as it was: found without building anything.

The check of the rebuilt model trusts the passes that LipCompile hardens with; this one only
reads both files. A node may differ from the original's in

    an input that read the tensor x, and reads f_c(x) now, or its copy behind Q and DQ;
    a bias, or the bound of a Clip, where the record of a site says so;
    a weight, a bias or the like, where the network was rescaled;
    ThresholdedRelu in place of Relu, the same;
    the weight, for a layer whose columns were zeroed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lipcompile.ops import MARK
from lipcompile.passes.remove_forged import equals_of
from lipcompile.rescaling.homogeneous import read_network
from lipcompile.text import count
from lipcompile.verifying.comparing import Comparison
from lipcompile.verifying.numbers import Side
from lipcompile.verifying.pair import Pair
from lipcompile.verifying.results import VerifyCheck, some
from lipcompile.weights import Weight, stored_weight

NAME = "untouched nodes and weights"
_PASSES_ON = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast", "Identity"})


def check_untouched(pair: Pair) -> VerifyCheck:
    """Every node and weight that the provenance does not name, byte for byte."""
    if pair.compacted:
        reason = "channels were removed, which changes most shapes: see the rebuilt model"
        return VerifyCheck(NAME, None, reason)
    claims = _claims(pair)
    compared = Comparison(
        Side(pair.original),
        Side(pair.inner),
        was=partial(_as_it_was, claims),
        may_differ=frozenset(claims.weights),
        may_be_extra=_is_ours,
    ).run()
    if compared.differences:
        return VerifyCheck(NAME, False, some(compared.differences))
    before = pair.original.proto.graph
    stored = {tensor.name for tensor in before.initializer}
    weights = count(stored, "initializer")
    kept = (
        weights
        if not stored & claims.weights
        else f"{len(stored - claims.weights)} of {weights}"
    )
    how = "number for number" if compared.otherwise else "byte for byte"
    text = f"the original's {count(before.node, 'node')} and {kept} stand {how}"
    text += f", but for what the records name{compared.note}"
    return VerifyCheck(NAME, True, text)


@dataclass(slots=True)
class _Claims:
    """What the provenance says was edited.

    Attributes:
        reads: What reads a forged tensor -> the names that it may have read before.
        inputs: (output of a node, index) -> an input that may be another constant.
        activations: Outputs of activations that took a form in -> the way.
        bounds: Outputs of Clip whose attribute max was lowered.
        weights: Initializers and Constant nodes whose numbers were edited.
    """

    reads: dict[str, frozenset[str]] = field(default_factory=dict)
    inputs: set[tuple[str, int]] = field(default_factory=set)
    activations: dict[str, str] = field(default_factory=dict)
    bounds: set[str] = field(default_factory=set)
    weights: set[str] = field(default_factory=set)


def _claims(pair: Pair) -> _Claims:
    claims = _Claims()
    for record in pair.sites:
        anchor = pair.original_nodes[record["at"]]
        value = next(v for v in anchor.outputs if v.name == record["at"])
        if record["way"] == "insert":
            names = frozenset(v.name or "" for v in equals_of(value))
            claims.reads[record["forged"]] = names
        else:
            claims.activations[record["at"]] = record["way"]
        for change in record.get("changes", []):
            if "max" in change:
                claims.bounds.add(change["node"])
            elif "stored" in change:
                claims.weights.add(change["was"])
            else:
                claims.inputs.add((change["node"], int(change["input"])))
    for node in pair.inner.graph_ir.graph:
        source = node.inputs[0].name if node.inputs and node.inputs[0] is not None else None
        output = node.outputs[0].name if node.outputs else None
        if node.op_type in _PASSES_ON and source in claims.reads and _is_ours(output):
            claims.reads[output or ""] = claims.reads[source]
    _claim_columns(pair, claims)
    _claim_rescaled(pair, claims)
    return claims


def _claim_columns(pair: Pair, claims: _Claims) -> None:
    for record in pair.columns:
        layer = pair.layers[record["layer"]]
        index = 1 - layer.data_index
        weight = stored_weight(layer.node, index)
        if record["columns"] and isinstance(weight, Weight):
            claims.weights.add(weight.root.name or "")
            claims.inputs.add((layer.node.outputs[0].name or "", index))


def _claim_rescaled(pair: Pair, claims: _Claims) -> None:
    """Every constant that takes a factor: by how much, another check says."""
    if pair.change.rescaling is None:
        return
    for edit in read_network(pair.original, pair.change.rescaling.scores).edits:
        weight = stored_weight(edit.node, edit.index)
        assert isinstance(weight, Weight), "read_network refuses others"
        output = edit.node.outputs[0].name or ""
        claims.weights.add(weight.root.name or "")
        claims.inputs.add((output, edit.index))


def _is_ours(name: str | None) -> bool:
    return (name or "").startswith(f"{MARK}/")


def _as_it_was(claims: _Claims, before: Any, after: Any) -> Any:
    """`after`, without the edits that the provenance names."""
    output = after.output[0] if after.output else ""
    plain = type(after)()
    plain.CopyFrom(after)
    inputs = [*after.input]
    for index, (was, now) in enumerate(zip(before.input, after.input, strict=False)):
        if was in claims.reads.get(now, ()) or (output, index) in claims.inputs:
            inputs[index] = was
    if len(after.input) == len(before.input) + 1:  # a bias where there was none
        inputs = inputs[:-1] if (output, len(before.input)) in claims.inputs else inputs
    del plain.input[:]
    plain.input.extend(inputs)
    _undo_activation(before, plain, claims)
    return plain


def _undo_activation(before: Any, plain: Any, claims: _Claims) -> None:
    output = plain.output[0] if plain.output else ""
    way = claims.activations.get(output)
    if way is not None:
        kept = [p for p in plain.metadata_props if not p.key.startswith(f"{MARK}.")]
        del plain.metadata_props[:]
        plain.metadata_props.extend(kept)
    if way == "relu" and plain.op_type == "ThresholdedRelu":
        plain.op_type = "Relu"
        del plain.attribute[:]
    if output in claims.bounds or output in claims.weights:
        del plain.attribute[:]
        plain.attribute.extend(before.attribute)
