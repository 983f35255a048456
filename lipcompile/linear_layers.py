"""Find every linear layer of a graph: which operand is the weight, which the data, or why not.

A linear layer is a Conv, ConvTranspose, Gemm or MatMul with one operand that is constant: an
initializer, a Constant node, or anything computed from constants alone (Identity, Cast,
Transpose, Reshape, DequantizeLinear, ConstantOfShape, ...).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from lipcompile.attributes import integer
from lipcompile.ops import (
    LINEAR_OPS,
    MARK,
    QDQ,
    RANDOM,
    STANDARD_DOMAINS,
    UNSUPPORTED_LINEAR,
    commutes,
)
from lipcompile.records import read_sites

_Verdict = tuple[str, str]  # code and reason of a refusal

_LONGEST_CHAIN = 64  # constant chains are short; a longer one stays unknown
_DATA_TYPES = frozenset(int(kind) for kind in ir.DataType) - {0}
_KEEPS_SHAPE = frozenset({"Identity", "Cast", "CastLike", "DequantizeLinear"})
FLOAT_TYPES = frozenset({"float16", "bfloat16", "float32", "float64"})


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """One linear layer.

    Attributes:
        name: The node's name, or its output's name where the node has none.
        node: The operator.
        data_index: Which input is the data operand.
        dtype: NumPy name of the element type of data and weight.
        weight_form: How the weight is stored, from its root: "init", "init->Cast", ...
        position: Place of the node in the graph, for listing.
        channels: Length of axis 1 of the data, where a convolution's weight tells it.
    """

    name: str
    node: ir.Node
    data_index: int
    dtype: str
    weight_form: str
    position: int
    channels: int | None = None

    @property
    def label(self) -> str:
        """The layer in a message."""
        return f"layer '{self.name}' ({self.node.op_type})"

    @property
    def data(self) -> ir.Value:
        value = self.node.inputs[self.data_index]
        assert value is not None
        return value


@dataclass(frozen=True, slots=True)
class Refusal:
    """A linear layer that is left alone.

    Attributes:
        layer: Name of the layer.
        op_type: Its operator.
        code: One word for machines: "stem", "head", "computed-weight", ...
        reason: One clause for people.
        position: Place of the node in the graph, for listing.
    """

    layer: str
    op_type: str
    code: str
    reason: str
    position: int


@dataclass(frozen=True, slots=True)
class Constants:
    """Values that do not depend on the input data.

    Attributes:
        fixed: Computed from initializers and Constant nodes alone.
        static: The same, or computed from shapes as well (a scale 1 / sqrt(head size)).
    """

    fixed: frozenset[ir.Value]
    static: frozenset[ir.Value]


def find_constants(graph: ir.Graph) -> Constants:
    """Propagates constness forward, in time linear in the size of the graph."""
    nodes = list(graph.all_nodes())
    roots = [v for g in (graph, *graph.subgraphs()) for v in g.initializers.values()]
    roots += [v for n in nodes if n.op_type == "Constant" for v in n.outputs]
    fixed = _propagate(roots)
    shapes = [v for n in nodes if n.op_type in ("Shape", "Size") for v in n.outputs]
    return Constants(fixed, _propagate([*fixed, *shapes]))


def _propagate(roots: Iterable[ir.Value]) -> frozenset[ir.Value]:
    reached = set(roots)
    queue = list(reached)
    missing: dict[ir.Node, int] = {}
    while queue:
        for node, _ in queue.pop().uses():
            if not _is_foldable(node):
                continue
            if node not in missing:
                missing[node] = sum(v is not None for v in node.inputs)
            missing[node] -= 1
            if missing[node] == 0:
                fresh = [v for v in node.outputs if v not in reached]
                reached.update(fresh)
                queue += fresh
    return frozenset(reached)


def _is_foldable(node: ir.Node) -> bool:
    # ONNX Runtime's tools write 4- and 16-bit Q / DQ in a domain of their own.
    known = node.domain in STANDARD_DOMAINS or node.op_type in QDQ
    if not known or node.op_type in RANDOM:
        return False
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return not any(a.type in graphs for a in node.attributes.values())


def find_linear_layers(
    model: ir.Model, constants: Constants
) -> tuple[list[LinearLayer], list[Refusal]]:
    """Every linear layer in graph order, and apart those that can never be rewritten.

    Raises:
        ModelError: The model is hardened, and its provenance is damaged.
    """
    # Named there as well as marked on nodes: some tools drop the marks, some the provenance.
    records = read_sites(model.metadata_props)
    forged = _ForgedTensors(frozenset(record.get("forged") for record in records))
    found = []
    for position, node in enumerate(model.graph.all_nodes()):
        inside = node.graph is not model.graph
        verdict = (
            _in_subgraph(node, constants)
            if inside
            else _classify(node, constants, position, forged)
        )
        if verdict is not None:
            found.append((position, node, verdict))
    names = _unique_names([node for _, node, _ in found])
    layers: list[LinearLayer] = []
    refusals: list[Refusal] = []
    for position, node, verdict in found:
        if isinstance(verdict, LinearLayer):
            layers.append(replace(verdict, name=names[node]))
        else:
            refusals.append(Refusal(names[node], node.op_type, *verdict, position))
    return layers, refusals


def _in_subgraph(node: ir.Node, constants: Constants) -> _Verdict | None:
    if node.op_type in LINEAR_OPS:
        linear = not set(node.inputs[:2]) <= constants.fixed
    else:
        linear = node.op_type in UNSUPPORTED_LINEAR and bool(_unsupported(node, constants))
    reason = ("subgraph", "stands inside a subgraph (the body of an If, Loop or Scan)")
    return reason if linear else None


def _classify(
    node: ir.Node, constants: Constants, position: int, forged: _ForgedTensors
) -> LinearLayer | _Verdict | None:
    if node.op_type not in LINEAR_OPS or node.domain not in STANDARD_DOMAINS:
        return _unsupported(node, constants)
    operands = list(node.inputs[:2])
    if len(operands) < 2 or None in operands or set(operands) <= constants.fixed:
        return None
    weights = [i for i, v in enumerate(operands) if v in constants.fixed]
    if not weights or (node.op_type.startswith("Conv") and weights != [1]):
        # A MatMul or Gemm of two activations is no linear layer; a Conv should be one.
        reason = ("computed-weight", "its weight is computed from the input")
        return reason if node.op_type.startswith("Conv") else None
    weight, data = operands[weights[0]], operands[1 - weights[0]]
    assert weight is not None and data is not None
    dtype = element_type(weight) or element_type(data)
    obstacle = _obstacle(data, dtype, forged)
    if obstacle is not None or dtype is None:
        return obstacle
    return LinearLayer(
        layer_name(node),
        node,
        1 - weights[0],
        dtype,
        _weight_form(weight),
        position,
        _channels(node, weight),
    )


def _obstacle(data: ir.Value, dtype: str | None, forged: _ForgedTensors) -> _Verdict | None:
    if dtype is None:
        hint = "run onnx.shape_inference first"
        return "unknown-type", f"the element type of its weight cannot be told: {hint}"
    if dtype not in FLOAT_TYPES:
        return "integer", f"works on {dtype}, and forged functions on floats"
    if data.is_graph_input():
        return "graph-input", "is fed by a graph input, not by an activation"
    if forged.reach(data):
        return "already-hardened", "its input is forged already"
    return None


def _unsupported(node: ir.Node, constants: Constants) -> _Verdict | None:
    if node.op_type == "Attention" and node.domain in STANDARD_DOMAINS:
        return None  # the standard operator holds no weight
    if not any(v in constants.fixed for v in node.inputs if v is not None):
        return None
    if node.op_type in LINEAR_OPS:
        return "foreign-domain", f"is an operator of '{node.domain}', not of ONNX itself"
    return UNSUPPORTED_LINEAR.get(node.op_type)


def is_forged(node: ir.Node) -> bool:
    """Whether LipCompile wrote or rewrote this node."""
    return (node.name or "").startswith(f"{MARK}/") or f"{MARK}.form" in node.metadata_props


@dataclass(frozen=True, slots=True)
class _ForgedTensors:
    """What an earlier run forged: by name, or by the mark of the node.

    Attributes:
        names: Forged tensors that the provenance names.
        known: What was found out of values, so that layers on one way look at it once.
    """

    names: frozenset[str | None]
    known: dict[ir.Value, bool] = field(default_factory=dict)

    def reach(self, data: ir.Value) -> bool:
        """Whether `data` is a forged tensor, or one that was rearranged or pooled since."""
        passed: list[ir.Value] = []
        found = False
        value: ir.Value | None = data
        while value is not None and (node := value.producer()) is not None:
            if value in self.known:
                found = self.known[value]
                break
            passed.append(value)
            self.known[value] = False  # in a damaged graph the way may be a circle
            if value.name in self.names or is_forged(node):
                found = True
                break
            value = node.inputs[0] if commutes(node) else None
        self.known.update(dict.fromkeys(passed, found))
        return found


def layer_name(node: ir.Node) -> str:
    """The node's name, or its first output's where the node has none."""
    return node.name or node.outputs[0].name or node.op_type


def _unique_names(nodes: Sequence[ir.Node]) -> dict[ir.Node, str]:
    """Names repeated by the exporter are told apart by the outputs' names."""
    counts = Counter(layer_name(node) for node in nodes)
    return {
        node: f"{name}@{node.outputs[0].name}" if counts[name] > 1 else name
        for node in nodes
        for name in [layer_name(node)]
    }


def _weight_form(weight: ir.Value) -> str:
    chain: list[str] = []
    value: ir.Value | None = weight
    while value is not None and not value.is_initializer():
        producer = value.producer()
        if producer is None:
            break
        chain.append(producer.op_type)
        value = producer.inputs[0] if producer.inputs else None
    if value is not None and value.is_initializer():
        chain.append("init")
    return "->".join(reversed(chain))


def _channels(node: ir.Node, weight: ir.Value) -> int | None:
    """Channels that a convolution reads: W is [out, in / group, ...], transposed [in, ...]."""
    shape = _static_shape(weight) if node.op_type.startswith("Conv") else None
    if shape is None or len(shape) < 3:
        return None
    if node.op_type == "ConvTranspose":
        return shape[0]
    return shape[1] * integer(node, "group", 1)


def _static_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The shape of a constant, through operators that keep it."""
    for _ in range(_LONGEST_CHAIN):
        shape = value.const_value.shape if value.const_value is not None else value.shape
        if shape is not None:
            lengths = tuple(length for length in shape if isinstance(length, int))
            return lengths if len(lengths) == len(shape) else None
        producer = value.producer()
        if producer is None or producer.op_type not in _KEEPS_SHAPE:
            return None
        source = producer.inputs[0]
        if source is None:
            return None
        value = source
    return None


def element_type(value: ir.Value) -> str | None:
    """NumPy name of the element type, from the value or from what computes it."""
    for _ in range(_LONGEST_CHAIN):
        dtype = value.dtype or (value.const_value.dtype if value.const_value else None)
        producer = value.producer()
        if dtype is None and producer is not None:
            dtype = _type_from_attributes(producer)
        if dtype is not None:
            return "string" if dtype == ir.DataType.STRING else str(dtype.numpy().name)
        source = _type_source(producer) if producer is not None else None
        if source is None:
            return None
        value = source
    return None


def _type_from_attributes(node: ir.Node) -> ir.DataType | None:
    attributes = node.attributes
    if node.op_type in ("Cast", "DequantizeLinear"):
        stated = integer(node, "to" if node.op_type == "Cast" else "output_dtype", 0)
        return ir.DataType(stated) if stated in _DATA_TYPES else None
    if node.op_type == "ConstantOfShape" and "value" not in attributes:
        return ir.DataType.FLOAT
    if node.op_type in ("Constant", "ConstantOfShape") and "value" in attributes:
        value = attributes["value"].value
        return value.dtype if isinstance(value, ir.TensorProtocol) else None
    if node.op_type == "Constant" and {"value_float", "value_floats"} & set(attributes):
        return ir.DataType.FLOAT
    return None


def _type_source(node: ir.Node) -> ir.Value | None:
    """The input whose element type the output has."""
    index = 1 if node.op_type in ("DequantizeLinear", "CastLike", "Where") else 0
    return node.inputs[index] if len(node.inputs) > index else None
