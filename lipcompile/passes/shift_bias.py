"""Takes a soft threshold into the bias in front of an activation: no node is added.

    relu(z + b) thresholded by c            =  relu(z + (b - c))
    clip(z + b, 0, m) thresholded by c      =  clip(z + (b - c), 0, max(m - c, 0))

Cases, for what computes the activation's input, which nothing else reads:
    1. Conv, ConvTranspose: the bias, made where there is none.
    2. Gemm: the same, divided by beta.
    3. BatchNormalization: its B.
    4. Add with a constant operand, such as the bias behind a MatMul.
    5. Add of two activations: cases 1 to 5 for one of them (the end of a residual block).

A bias that is an initializer of its own is edited in place, and its old numbers are returned
for the provenance; any other is replaced by a new constant, and stays in the file. A bias or
bound that is the default of a graph input is left alone: a caller may give another.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from lipcompile.attributes import integer, number
from lipcompile.ops import MARK, standard_op
from lipcompile.weights import (
    Weight,
    add_constant,
    set_constant,
    stored_weight,
)

_BIAS = 2  # its place among the inputs of each of these
_ADDS_BIAS = frozenset({"Conv", "ConvTranspose", "Gemm", "BatchNormalization"})
_CLIP_MIN, _CLIP_MAX = 1, 2
_ACCURACY = 2.0**-10  # of c; float32 keeps it for biases up to some thousand times c


@dataclass(frozen=True, slots=True)
class BiasShift:
    """A bias that can take -c.

    Attributes:
        activation: The Relu or Clip behind it.
        node: The node that adds the bias.
        index: Which of its inputs the bias is.
        bias: The bias as it is stored; None where there is none yet.
        length: How long a bias that has to be made is.
        factor: What the node multiplies its bias by.
    """

    activation: ir.Node
    node: ir.Node
    index: int
    bias: Weight | None
    length: int
    factor: float = 1.0

    def takes(self, c: float, dtype: str) -> bool:
        """Whether the bias moves by c, and not by what its type makes of it.

        In 16 bits a bias of 12 has neighbours 0.0078 apart, which may be more than c.
        """
        before, after = self._numbers(c, dtype)
        moved = (before.astype(np.float64) - after.astype(np.float64)) * self.factor
        return bool((np.abs(moved - c) <= _ACCURACY * c).all())

    def _numbers(self, c: float, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """The bias before and after."""
        bias = self.bias
        before = bias.as_read(bias.array()) if bias else np.zeros(self.length, dtype)
        after = (before.astype(np.float64) - c / self.factor).astype(before.dtype)
        return before, after

    def apply(self, c: float, dtype: str, name: str) -> list[dict[str, Any]]:
        """Subtracts c from the bias, and from the upper bound of a Clip.

        Args:
            c: The threshold.
            dtype: NumPy name of the activation's type, and of a bias that has to be made.
            name: For constants that have to be made.

        Returns:
            What was changed, for provenance and `undo`.
        """
        _, shifted = self._numbers(c, dtype)
        changes = [_replace(self.node, self.index, self.bias, shifted, f"{name}/bias")]
        cap = upper_bound(self.activation)
        if cap is not None:
            lowered = max(cap - c, 0.0)  # below 0 it would be the result itself
            changes.append(_lower(self.activation, lowered, dtype, f"{name}/max"))
        return changes


def find_shift(activation: ir.Node) -> BiasShift | None:
    """The bias in front of a Relu, or of a Clip from 0, that can take a threshold."""
    if not _starts_at_zero(activation):
        return None
    source = activation.inputs[0]
    while source is not None and len(source.uses()) == 1 and not source.is_graph_output():
        node = source.producer()
        if node is None:
            return None
        if standard_op(node) in _ADDS_BIAS:
            return _of_layer(activation, node)
        if standard_op(node) != "Add":
            return None
        for index in (1, 0):
            bias = _constant(node, index)
            if bias is not None:
                return BiasShift(activation, node, index, bias, 0)  # Case 4
        source = _addend(node)  # Case 5
    return None


def _starts_at_zero(node: ir.Node) -> bool:
    if standard_op(node) == "Relu":
        return True
    if standard_op(node) != "Clip" or (cap := upper_bound(node)) is None or cap <= 0:
        return False
    return _bound(node, "min", _CLIP_MIN) == 0


def upper_bound(activation: ir.Node) -> float | None:
    """The upper bound of a Clip, if it has a constant one."""
    return _bound(activation, "max", _CLIP_MAX) if standard_op(activation) == "Clip" else None


def _bound(node: ir.Node, name: str, index: int) -> float | None:
    if name in node.attributes:  # before opset 11
        return number(node, name, np.nan)
    bound = _constant(node, index)
    if bound is None:
        return None
    stored = bound.array()
    return float(stored.item()) if stored.size == 1 else None


def _constant(node: ir.Node, index: int) -> Weight | None:
    """A constant operand whose numbers can be edited, and that no caller overrides."""
    if len(node.inputs) <= index:
        return None
    weight = stored_weight(node, index)
    return None if isinstance(weight, str) or weight.quantised else weight


def _of_layer(activation: ir.Node, node: ir.Node) -> BiasShift | None:
    """Cases 1 to 3."""
    factor = number(node, "beta", 1.0) if node.op_type == "Gemm" else 1.0
    if factor == 0 or len(node.outputs) > 1 or integer(node, "training_mode", 0):
        return None
    if len(node.inputs) > _BIAS and node.inputs[_BIAS] is not None:
        bias = _constant(node, _BIAS)
        return BiasShift(activation, node, _BIAS, bias, 0, factor) if bias else None
    length = 1 if node.op_type == "Gemm" else _output_channels(node)
    return BiasShift(activation, node, _BIAS, None, length, factor) if length else None


def _output_channels(node: ir.Node) -> int | None:
    weight = stored_weight(node, 1)
    if isinstance(weight, str) or weight.quantised:
        return None
    rows: int = weight.shape[0 if node.op_type == "Conv" else 1]
    return rows if node.op_type == "Conv" else rows * integer(node, "group", 1)


def _addend(node: ir.Node) -> ir.Value | None:
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is None or value is None or len(value.uses()) > 1:
            continue
        if standard_op(producer) in _ADDS_BIAS | {"Add"}:
            return value
    return None


def _replace(
    node: ir.Node, index: int, old: Weight | None, new: np.ndarray, name: str
) -> dict[str, Any]:
    """Gives a node another constant; returns what `undo` needs."""
    has_place = len(node.inputs) > index
    was = node.inputs[index] if has_place else None
    change: dict[str, Any] = {
        "node": node.outputs[0].name,
        "input": index,
        # An input that is left out has an empty name, or at the end none at all.
        "was": was.name if was is not None else "" if has_place else None,
    }
    if old is not None and _is_editable(old, new):
        change["stored"] = base64.b64encode(old.array().tobytes()).decode()
        set_constant(old.root, new)
    else:
        add_constant(node, index, new, f"{MARK}/{name}")
    return change


def _is_editable(old: Weight, new: np.ndarray) -> bool:
    """An inline initializer of its own, in the type that is computed in."""
    tensor = old.root.const_value
    return (
        not old.shared
        and not old.chain
        and old.root.is_initializer()
        and not isinstance(tensor, ir.ExternalTensor)
        and old.array().dtype == new.dtype
    )


def _lower(activation: ir.Node, cap: float, dtype: str, name: str) -> dict[str, Any]:
    if "max" not in activation.attributes:
        return _replace(activation, _CLIP_MAX, None, np.asarray(cap, dtype), name)
    was = number(activation, "max", np.inf)
    activation.attributes.add(ir.AttrFloat32("max", cap))
    return {"node": activation.outputs[0].name, "max": was}


def undo(graph: ir.Graph, change: Mapping[str, Any]) -> None:
    """Takes back one change that `BiasShift.apply` returned.

    Raises:
        KeyError: The graph has no such node or initializer.
    """
    node = {value.name: n for n in graph for value in n.outputs}[change["node"]]
    if "max" in change:
        node.attributes.add(ir.AttrFloat32("max", change["max"]))
    elif "stored" in change:
        value = graph.initializers[change["was"]]
        assert value.const_value is not None
        held = value.const_value.numpy()
        old = np.frombuffer(base64.b64decode(change["stored"]), held.dtype)
        set_constant(value, old.reshape(held.shape))
    else:
        _rewire(graph, node, int(change["input"]), change["was"])


def _rewire(graph: ir.Graph, node: ir.Node, index: int, name: str | None) -> None:
    """Gives input `index` back to the tensor `name`, and drops the constant that stood in."""
    stand_in = node.inputs[index]
    known = {value.name: value for n in graph for value in n.outputs} | dict(
        graph.initializers
    )
    node.replace_input_with(index, known[name] if name else None)
    if name is None:
        node.resize_inputs(index)
    if stand_in is None or stand_in.name is None or stand_in.uses():
        return
    producer = stand_in.producer()
    if producer is not None:
        graph.remove(producer)
    else:
        graph.initializers.pop(stand_in.name)
