"""The weight of a linear layer: where its numbers are stored, and which input each belongs to.

A weight may be stored as an initializer or a Constant node, possibly behind Identity, Cast,
Transpose or DequantizeLinear. `Weight` reads it in the layer's own axes, and stores an edited
copy back where it came from, or beside it where somebody else reads it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lipcompile.attributes import integer
from lipcompile.linear_layers import LinearLayer
from lipcompile.ops import MARK, QDQ, standard_op

_FOLLOWED = frozenset({"Identity", "Cast", "Transpose", "DequantizeLinear"})


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant operand of a node.

    Attributes:
        node: The node that reads it.
        index: Which of its inputs.
        root: The initializer, or the output of the Constant node, that holds the numbers.
        chain: The nodes between root and `node`, in this order.
        shared: Whether anything but this operand depends on the root.
    """

    node: ir.Node
    index: int
    root: ir.Value
    chain: tuple[ir.Node, ...]
    shared: bool

    @property
    def quantised(self) -> bool:
        return any(node.op_type in QDQ for node in self.chain)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `array()`; no number is read."""
        tensor = ir.convenience.get_const_tensor(self.root)
        assert tensor is not None
        shape: tuple[int, ...] = tuple(tensor.shape.numpy())
        for node in self.chain:
            if node.op_type == "Transpose":
                shape = tuple(shape[axis] for axis in _permutation(node, len(shape)))
        return shape

    def array(self) -> np.ndarray:
        """A copy of the stored numbers, in the root's dtype and the operand's axes."""
        stored = _stored(self.root)
        for node in self.chain:
            if node.op_type == "Transpose":
                stored = stored.transpose(_permutation(node, stored.ndim))
        return np.array(stored)

    def as_read(self, array: np.ndarray) -> np.ndarray:
        """Stored numbers as the node reads them, but for DequantizeLinear."""
        for node in self.chain:
            if node.op_type == "Cast":
                array = array.astype(ir.DataType(integer(node, "to", 1)).numpy())
        return array

    def zeros(self) -> np.ndarray:
        """What stands for 0.0 in the root's dtype; broadcasts against `array()`."""
        scales = [node for node in self.chain if node.op_type in QDQ]
        dtype = _stored(self.root).dtype
        if not scales or len(scales[0].inputs) < 3 or (zero := scales[0].inputs[2]) is None:
            return np.zeros((), dtype)
        points = constant_array(zero)
        assert points is not None, "the quantised weight of a linear layer is constant"
        if points.ndim == 0 or points.size == 1:
            return points.reshape(()).astype(dtype)
        rank = _stored(self.root).ndim
        shape = [1] * rank
        shape[integer(scales[0], "axis", 1) % rank] = points.size
        points = points.reshape(shape)
        for node in self.chain:
            if node.op_type == "Transpose":
                points = points.transpose(_permutation(node, rank))
        return points.astype(dtype)

    def store(self, array: np.ndarray, name: str) -> None:
        """Makes `array` the operand.

        In place where nothing else depends on the root; else as a constant of its own, called
        `lipcompile/<name>`, that replaces the whole chain.

        Args:
            array: As `array()` gave it; its shape may have changed.
            name: For a constant of its own.
        """
        if not self.shared:
            for node in reversed(self.chain):
                if node.op_type == "Transpose":
                    array = array.transpose(np.argsort(_permutation(node, array.ndim)))
            set_constant(self.root, np.ascontiguousarray(array))
            return
        add_constant(self.node, self.index, self.as_read(array), f"{MARK}/{name}")


def stored_weight(node: ir.Node, index: int) -> Weight | str:
    """The constant operand `index` of `node`, or why its numbers cannot be edited."""
    value = node.inputs[index]
    if value is None:
        return "is absent"
    chain: list[ir.Node] = []
    shared = False
    while not value.is_initializer():
        shared |= len(value.uses()) > 1 or value.is_graph_output()
        producer = value.producer()
        if producer is None or standard_op(producer) not in {*_FOLLOWED, "Constant"}:
            what = producer.op_type if producer else "a graph input"
            return f"is made by {what}"
        if producer.op_type == "Constant":
            break
        chain.insert(0, producer)
        source = producer.inputs[0]
        assert source is not None
        value = source
    shared |= len(value.uses()) > 1 or value.is_graph_output()
    weight = Weight(node, index, value, tuple(chain), shared)
    if ir.convenience.get_const_tensor(value) is None:
        return "has no stored numbers"
    return _obstacle(weight) or weight


def _obstacle(weight: Weight) -> str | None:
    graph = weight.node.graph
    assert isinstance(graph, ir.Graph)
    if weight.quantised and weight.shared:
        return "is quantised, and shared with another operator"
    if any(integer(node, "block_size", 0) for node in weight.chain):
        return "is quantised in blocks"
    # Before IR version 4 every initializer is an input, and runtimes take it for constant.
    if weight.root.is_graph_input() and not needs_constant_nodes(graph):
        return "is a graph input, and a caller may replace it"
    return None


def _stored(value: ir.Value) -> np.ndarray:
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None
    array: np.ndarray = tensor.numpy()
    return array


def constant_root(value: ir.Value | None) -> ir.Value | None:
    """`value`, or what it is an Identity of."""
    while value is not None and (producer := value.producer()) is not None:
        if producer.op_type != "Identity":
            break
        value = producer.inputs[0]
    return value


def constant_array(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of a constant, through Identity (which shares constants between layers)."""
    value = constant_root(value)
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return tensor.numpy() if tensor is not None else None


def _permutation(node: ir.Node, rank: int) -> Sequence[int]:
    attribute = node.attributes.get("perm")
    return attribute.as_ints() if attribute is not None else tuple(range(rank))[::-1]


def set_constant(value: ir.Value, array: np.ndarray) -> None:
    """Replaces the numbers of an initializer, or of a Constant node's output, in place."""
    tensor = ir.tensor(array, name=value.name)
    producer = value.producer()
    if producer is None:
        value.const_value, value.shape = tensor, ir.Shape(array.shape)
        return
    for name in [name for name in producer.attributes if name != "value"]:
        del producer.attributes[name]
    producer.attributes.add(ir.AttrTensor("value", tensor))


def add_constant(node: ir.Node, index: int, array: np.ndarray, name: str) -> ir.Value:
    """Gives `node` a new constant as input `index`.

    An initializer; before IR version 4, where every initializer is a graph input as well, a
    Constant node in front of `node`.
    """
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    tensor = ir.tensor(array, name=name)
    kind, shape = ir.TensorType(tensor.dtype), ir.Shape(array.shape)
    if needs_constant_nodes(graph):
        value = ir.Value(name=name, type=kind, shape=shape)
        constant = ir.node("Constant", [], {"value": tensor}, outputs=[value], name=name)
        graph.insert_before(node, constant)
    else:
        value = ir.Value(name=name, type=kind, shape=shape, const_value=tensor)
        graph.register_initializer(value)
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)
    return value


def needs_constant_nodes(graph: ir.Graph) -> bool:
    """Before IR version 4 a new initializer would change the signature."""
    return bool(graph.meta.get("lipcompile.ir_version", 10) < 4)


@dataclass(frozen=True, slots=True)
class Columns:
    """How a layer's input and output features lie in its data and its weight.

    Attributes:
        data_axis: Axis of the data operand that the layer sums over; negative for MatMul,
            which counts from the end.
        weight_axis: Axis of the weight for input features (of one group, for Conv).
        output_axis: Axis of the weight for output features; None for a vector.
        count: How many input features there are.
        groups: Groups of a Conv; 1 elsewhere.
        shape: Shape of the weight, as `Weight.array` gives it.
    """

    data_axis: int
    weight_axis: int
    output_axis: int | None
    count: int
    groups: int
    shape: tuple[int, ...]

    def spread(self, features: np.ndarray) -> np.ndarray:
        """`features`, one per input feature, as it broadcasts against the weight."""
        shape = [1] * len(self.shape)
        if self.groups > 1:  # row o of a Conv's weight sees the channels of its own group
            shape[0], shape[1] = self.shape[0], self.shape[1]
            rows = features.reshape(self.groups, -1)
            return np.repeat(rows, self.shape[0] // self.groups, axis=0).reshape(shape)
        shape[self.weight_axis] = self.count
        return features.reshape(shape)


def columns_of(layer: LinearLayer, shape: Sequence[int]) -> Columns:
    """The columns of `layer`, whose weight has shape `shape`."""
    node, first, rank = layer.node, layer.data_index == 0, len(shape)
    groups = 1
    output: int | None
    if node.op_type == "Conv":
        groups = integer(node, "group", 1)
        data, weight, output = 1, 1, 0
    elif node.op_type == "ConvTranspose":  # [in, out / group, ...], whatever the groups
        data, weight, output = 1, 0, 1
    elif node.op_type == "Gemm":
        flip_a, flip_b = bool(integer(node, "transA", 0)), bool(integer(node, "transB", 0))
        data = int(first != flip_a) if first else int(flip_b)
        weight = int(flip_b) if first else int(not flip_a)
        output = 1 - weight
    else:
        data = -1 if first else -2
        weight = max(rank - 2, 0) if first else rank - 1
        output = None if rank < 2 else (rank - 1 if first else rank - 2)
    return Columns(data, weight, output, shape[weight] * groups, groups, tuple(shape))


def layer_columns(layer: LinearLayer) -> Columns | str:
    """The columns of a layer, or why its weight cannot be edited; no weight is read."""
    weight = stored_weight(layer.node, 1 - layer.data_index)
    return weight if isinstance(weight, str) else columns_of(layer, weight.shape)
