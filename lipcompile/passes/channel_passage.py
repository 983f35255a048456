"""How channels pass through one operator: the vocabulary of the analysis of dead channels.

A channel axis starts at the output of a linear layer and is followed forward as far as every
operator on the way keeps channels apart. What each operator does to it is a `Passage`, which
the analysis reads backwards and the edit forwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from lipcompile.linear_layers import (
    Constants,
    find_constants,
    find_linear_layers,
    layer_name,
)
from lipcompile.weights import Columns, Weight, constant_array, stored_weight

COMBINED = "is combined with another activation"
UNKNOWN_SHAPE = "has a shape that is not known"
Kind = Literal["linear", "per-channel", "fold", "concat", "blind", "opaque"]
Dims = tuple[int | None, ...]


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the channels of an activation lie.

    Attributes:
        origin: Values of equal origin always lose the same channels.
        axis: The axis of the channels, counted from the end (negative).
        length: How many there are.
        rank: Number of axes of the activation, if known.
    """

    origin: ir.Value
    axis: int
    length: int
    rank: int | None


@dataclass(frozen=True, slots=True)
class Cut:
    """A constant operand that loses entries along an axis with the channels of its node.

    Attributes:
        index: Which input of the node.
        axis: Axis of the constant; not negative.
        side: Whether it goes with the channels of the node's output or of its data.
    """

    index: int
    axis: int
    side: Literal["output", "data"] = "output"


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer as the analysis reads it."""

    name: str
    weight: Weight
    columns: Columns


@dataclass(frozen=True, slots=True)
class Passage:
    """What an operator does to channels.

    Attributes:
        kind: "linear" mixes them by a weight; "per-channel" keeps them; "fold" makes one
            feature of each channel and position; "concat" strings the channels of its inputs
            together; "blind" reads none; "opaque" is anything else.
        layout: Of the first output, where it has channels that can be followed.
        data: The inputs whose channels are meant.
        cuts: The constants that channels would be cut from.
        obstacle: Why no channel of the output can be dropped; "" where it can.
        data_obstacle: The same for the channels of a linear layer's data.
        linear: The linear layer.
        parts: For a fold (positions outside, channels, positions inside); for a concat the
            lengths of its inputs.
        target: Which entry of a Reshape's shape says the number of features outright.
        depthwise: Whether its number of groups is the number of channels.
    """

    kind: Kind
    layout: Layout | None = None
    data: tuple[int, ...] = ()
    cuts: tuple[Cut, ...] = ()
    obstacle: str = ""
    data_obstacle: str = ""
    linear: Linear | None = None
    parts: tuple[int, ...] = ()
    target: int | None = None
    depthwise: bool = False


class Shapes:
    """Shapes of values, as ONNX infers them from inputs and constants alone.

    What the model states is taken where inference finds nothing: a statement may be stale, and
    runtimes do not read it. Where both know a length and differ, nothing is known.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._inferred: dict[str | None, ir.Shape | None] | None = None

    def of(self, value: ir.Value) -> Dims | None:
        """The shape, with None for lengths that are not known."""
        constant = ir.convenience.get_const_tensor(value)
        if constant is not None:
            return _dims(constant.shape)
        inferred = _dims(self._infer().get(value.name))
        return _agreed(_dims(value.shape), inferred)

    def _infer(self) -> dict[str | None, ir.Shape | None]:
        if self._inferred is None:
            try:
                copy = self._model.clone()
            except RuntimeError:  # its nodes are out of order, which inference refuses too
                self._inferred = {}
                return self._inferred
            for value in _made(copy):
                value.shape = None
            ShapeInferencePass(check_type=False, strict_mode=False)(copy)
            self._inferred = {value.name: value.shape for value in _made(copy)}
        return self._inferred


def _made(model: ir.Model) -> list[ir.Value]:
    return [value for node in model.graph for value in node.outputs]


def _agreed(stated: Dims | None, inferred: Dims | None) -> Dims | None:
    """What is known of a shape by both accounts; None where they contradict each other."""
    if stated is None or inferred is None:
        return inferred or stated
    if len(stated) != len(inferred):
        return None
    pairs = list(zip(stated, inferred, strict=True))
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        return None
    return tuple(other if mine is None else mine for mine, other in pairs)


def _dims(shape: ir.ShapeProtocol | None) -> Dims | None:
    if shape is None:
        return None
    return tuple(length if isinstance(length, int) else None for length in shape)


@dataclass(frozen=True, slots=True)
class Scope:
    """What the rules know of the graph; `layouts` grows as the graph is walked forward."""

    constants: Constants
    shapes: Shapes
    names: Mapping[ir.Node, str]
    layouts: dict[ir.Value, Layout]

    def name(self, node: ir.Node) -> str:
        return self.names.get(node) or layer_name(node)

    def layout(self, node: ir.Node, index: int = 0) -> Layout | None:
        """The layout of an input."""
        value = node.inputs[index] if index < len(node.inputs) else None
        return self.layouts.get(value) if value is not None else None

    def cut(self, node: ir.Node, index: int, layout: Layout) -> Cut | str | None:
        """How a constant that broadcasts against channels is cut, or why it cannot be.

        None where it is the same for every channel.
        """
        value = node.inputs[index]
        assert value is not None
        weight = stored_weight(node, index)
        stored = weight.shape if isinstance(weight, Weight) else None
        shape = self.shapes.of(value) if stored is None else stored
        who = f"a constant of '{self.name(node)}'"
        if shape is None:
            return f"{who} {UNKNOWN_SHAPE}"
        axis = len(shape) + layout.axis
        if axis < 0 or shape[axis] == 1:
            return None
        if shape[axis] != layout.length:
            return f"{who} has another number of channels"
        obstacle = fixed_reason(weight)
        return f"{who} {obstacle}" if obstacle else Cut(index, axis)

    def numbers(self, node: ir.Node, index: int) -> list[int] | None:
        """A constant operand such as axes that no caller can replace."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None or value.is_graph_input():
            return None
        array = constant_array(value)
        return None if array is None else [int(number) for number in array.ravel()]


def open_scope(model: ir.Model) -> Scope:
    constants = find_constants(model.graph)
    nodes = list(model.graph.all_nodes())
    layers, refusals = find_linear_layers(model, constants)
    names = {layer.node: layer.name for layer in layers}
    names |= {nodes[refusal.position]: refusal.layer for refusal in refusals}
    return Scope(constants, Shapes(model), names, {})


def fixed_reason(weight: Weight | str) -> str:
    """Why a constant operand cannot lose entries; "" where it can."""
    if isinstance(weight, str):
        return weight
    if weight.quantised:
        return "is quantised"
    if weight.root.is_graph_input():
        return "is an input of the graph, as every weight before IR version 4"
    return ""
