"""What each forged tensor is by definition: f_c of a tensor that can be computed beside it.

    way "insert"   the anchor itself
    way "relu"     Relu, once more, of what the ThresholdedRelu reads
    way "bias"     the activation and what leads to it from the bias, once more, with the
                   original's bias: what the activation would give without the shift

The copies take their operators, attributes and constants from the original, and everything
else that they read from the hardened model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ml_dtypes  # noqa: F401  (makes NumPy know "bfloat16")
import numpy as np
import onnx_ir as ir

from lipcompile.forged import ForgedFunction
from lipcompile.ops import MARK
from lipcompile.rebuild import form_of
from lipcompile.verifying.pair import Pair, Record
from lipcompile.weights import stored_weight

# Not a prefix that hardening uses: it writes "lipcompile/".
_PREFIX = f"{MARK}.verify"
_LONGEST = 1000  # nodes from a bias to its activation


@dataclass(frozen=True, slots=True)
class Definition:
    """One forged tensor.

    Attributes:
        tensor: Its name.
        form: The forged function.
        c: Its threshold.
        dtype: NumPy name of the element type.
        shifted: Way "bias", in which sums are rounded in another order.
        nodes: To append to the hardened model; they give the two outputs below.
        argument: Name of the output that holds x.
        result: Name of the output that should hold f_c(x).
    """

    tensor: str
    form: ForgedFunction
    c: float
    dtype: str
    shifted: bool
    nodes: tuple[ir.Node, ...]
    argument: str
    result: str


def find_definitions(pair: Pair) -> tuple[Definition, ...]:
    """One per forged tensor of the provenance.

    Raises:
        ValueError, KeyError: A record does not fit the two models.
    """
    distinct: dict[str, list[Record]] = {}
    for record in pair.sites:
        distinct.setdefault(record["forged"], []).append(record)
    return tuple(
        _define(pair, records, f"{_PREFIX}/{index}")
        for index, records in enumerate(distinct.values())
    )


def _define(pair: Pair, records: Sequence[Record], prefix: str) -> Definition:
    record = records[0]
    for name in (record["at"], record["forged"]):
        if name not in pair.hardened_nodes:
            raise ValueError(f"the hardened model has no tensor '{name}'")
    dtype, c = pair.dtypes[record["tensor"]], float(record["c"])
    if not 0 < c < math.inf:
        raise ValueError(f"'{record['tensor']}' has c = {c}")
    nodes: list[ir.Node] = []
    if record["way"] == "insert":
        argument = record["at"]
    else:
        nodes += _copies(pair, records, prefix)
        argument = nodes[-1].outputs[0].name
    kind = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
    for name, source in (("x", argument), ("f", record["forged"])):
        value = ir.Value(name=f"{prefix}/{name}", type=kind)
        producer = next((v for n in nodes for v in n.outputs if v.name == source), None)
        node = ir.node("Identity", [producer or ir.Value(name=source)], outputs=[value])
        nodes.append(node)
    return Definition(
        tensor=record["forged"],
        form=form_of(record),
        c=c,
        dtype=dtype,
        shifted=record["way"] == "bias",
        nodes=tuple(nodes),
        argument=f"{prefix}/x",
        result=f"{prefix}/f",
    )


def _copies(pair: Pair, records: Sequence[Record], prefix: str) -> Iterator[ir.Node]:
    """The original's activation, and what leads to it from the bias that was shifted."""
    activation = pair.hardened_nodes[records[0]["at"]]
    changes = [change for record in records for change in record.get("changes", [])]
    edited = {(c["node"], int(c["input"])) for c in changes if "input" in c}
    starts = [name for name, _ in edited if name != records[0]["at"]]
    start = pair.hardened_nodes[starts[0]] if starts else activation
    renamed: dict[str, ir.Value] = {}
    for node in _path(start, activation):
        output = node.outputs[0].name or ""
        was = pair.original_nodes[output]
        inputs: list[ir.Value | None] = []
        for index, value in enumerate(node.inputs):
            if (output, index) in edited:
                constant = _constant(was, index, f"{prefix}/{len(renamed)}/{index}")
                if constant is not None:
                    yield constant
                inputs.append(constant.outputs[0] if constant is not None else None)
            elif value is None:
                inputs.append(None)
            else:
                name = value.name or ""
                inputs.append(renamed.get(name) or ir.Value(name=name))
        while inputs and inputs[-1] is None:
            inputs.pop()
        copied = ir.Value(name=f"{prefix}/{len(renamed)}")
        renamed[output] = copied
        attributes = list(was.attributes.values())
        yield ir.Node(was.domain, was.op_type, inputs, attributes, outputs=[copied])


def _path(start: ir.Node, end: ir.Node) -> Iterator[ir.Node]:
    """From the node that adds the bias to the activation, which alone read each other."""
    node = start
    for _ in range(_LONGEST):
        yield node
        if node is end:
            return
        (node,) = {reader for reader, _ in node.outputs[0].uses()}
    raise ValueError(f"'{end.outputs[0].name}' does not depend on its bias")


def _constant(was: ir.Node, index: int, name: str) -> ir.Node | None:
    """The original's constant operand; None where it had none."""
    if len(was.inputs) <= index or was.inputs[index] is None:
        return None
    weight = stored_weight(was, index)
    if isinstance(weight, str):
        raise ValueError(f"input {index} of '{was.name}' {weight}")
    tensor = ir.tensor(np.ascontiguousarray(weight.as_read(weight.array())))
    return ir.node("Constant", [], {"value": tensor}, outputs=[ir.Value(name=name)])
