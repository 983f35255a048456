"""Small graphs, forged by the passes themselves, and what they are to compute.

The reference is the model as it was, with the NumPy definition of the form at each layer's
own input: nothing hoisted, folded or encoded. Both run in ONNX's reference evaluator, so that
their convolutions and sums round alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from lipcompile import model_io
from lipcompile.forged import ForgedFunction, Target, make_form
from lipcompile.model_io import LoadedModel
from lipcompile.passes.insert_forged import Forged, InsertForged
from lipcompile.placement import SitePlan, Threshold, plan_sites
from lipcompile.sites import Selector, find_sites

C = 0.5
RNG = np.random.default_rng(0)
INITIALIZERS = {
    "W": RNG.normal(size=(4, 4)).astype(np.float32),
    "K": RNG.normal(size=(4, 4, 3, 3)).astype(np.float32),
    "E": RNG.normal(size=(4, 4, 1, 1)).astype(np.float32),
    "F": RNG.normal(size=(144, 4)).astype(np.float32),
    "G": RNG.normal(size=(36, 4)).astype(np.float32),
    "B": RNG.normal(size=4).astype(np.float32),
    "D": RNG.normal(size=4).astype(np.float32),
    "QK": RNG.integers(-127, 127, (4, 4, 3, 3)).astype(np.int8),
    "QW": RNG.integers(-127, 127, (4, 4)).astype(np.int8),
    "S": np.array(0.02, np.float32),
    "T": np.array(0.5, np.float32),
    "Z": np.array(0, np.int8),
    "U": np.array(0, np.uint8),
    "V": np.array(128, np.uint8),
    "YES": np.array(True),
    "ZERO": np.array(0, np.float32),
    "SIX": np.array(6, np.float32),
    "ONES": np.ones(4, np.float32),
    "FLAT": np.array([0, -1]),
    "ROWS": np.array([-1, 4]),
    "IMAGE": np.array([1, 4, 6, 6]),
    "AXIS": np.array([1]),
    "FIRST": np.array([0]),
    "REST": np.array([-1]),
    "START": np.array([1]),
    "STOP": np.array([3]),
}
CONV_IN, CONV_OUT = "float[1,4,6,6] x", "float[1,4,6,6] y"


def model(
    body: str,
    outputs: str = "float[N,4] y",
    inputs: str = "float[N,4] x",
    opset: int = 17,
    ir_version: int = 8,
    **arrays: np.ndarray,
) -> onnx.ModelProto:
    """A model in ONNX's text form; its initializers are `INITIALIZERS` and `arrays`."""
    proto = onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["": {opset}, "com.microsoft": 1]> '
        f"g ({inputs}) => ({outputs}) {{ {body} }}"
    )
    words = set(re.findall(r"\w+", body))
    for name, array in (INITIALIZERS | arrays).items():
        if name in words:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
            if ir_version < 4:
                kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
                info = onnx.helper.make_tensor_value_info(name, kind, array.shape)
                proto.graph.input.append(info)
    return proto


def rows(n: int = 4, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, 4)).astype(dtype)


def image(dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(1).normal(size=(1, 4, 6, 6)).astype(dtype)


@dataclass(frozen=True)
class Outcome:
    """A forged model, beside what it was and what it is to compute.

    Attributes:
        before: The original.
        after: The forged model, which passed ONNX's checker.
        forged: The results by the tensor of their site.
        reference: The original with the definition at each layer's input.
        loaded: The graph that was edited.
    """

    before: onnx.ModelProto
    after: onnx.ModelProto
    forged: dict[str, Forged]
    reference: onnx.ModelProto
    loaded: LoadedModel

    @property
    def plans(self) -> dict[str, SitePlan]:
        return {tensor: forged.plan for tensor, forged in self.forged.items()}

    @property
    def added(self) -> list[str]:
        """Operators that the forged model has more, constants left out."""
        known = {output for node in self.before.graph.node for output in node.output}
        return [
            node.op_type
            for node in self.after.graph.node
            if node.output[0] not in known and node.op_type != "Constant"
        ]


def forge(
    proto: onnx.ModelProto,
    form: ForgedFunction | str,
    selector: Selector | None = None,
    *,
    target: Target = "portable",
    c: float | Mapping[str, float] = C,
    check: bool = True,
) -> Outcome:
    """Forges the selected layers with threshold `c`, or with one per layer's name."""
    chosen = make_form(form) if isinstance(form, str) else form
    loaded = model_io.load(proto)
    thresholds = tuple(_thresholds(loaded, selector, c, chosen))
    assert thresholds, "nothing is selected"
    reference = _reference(proto, thresholds, chosen)
    plans = plan_sites(thresholds, chosen, loaded.opset, target)
    forged = InsertForged(chosen, plans)(loaded.graph_ir)
    after = model_io.render(loaded.proto, loaded.graph_ir)
    if check:
        onnx.checker.check_model(after, full_check=True)
    by_tensor = {result.plan.site.tensor: result for result in forged}
    return Outcome(proto, after, by_tensor, reference, loaded)


def _thresholds(
    loaded: LoadedModel,
    selector: Selector | None,
    c: float | Mapping[str, float],
    form: ForgedFunction,
) -> list[Threshold]:
    thresholds = []
    for site in find_sites(loaded.graph_ir, selector).sites:
        wanted = c if isinstance(c, float) else c[site.layers[0].name]
        held = form.threshold(wanted, site.dtype)
        thresholds.append(Threshold(site, wanted, wanted, held))
    return thresholds


class Definition(OpRun):
    """f_c(x) as NumPy computes it."""

    op_domain = "test"

    def _run(self, x: np.ndarray, form: str = "", c: str = "") -> tuple[np.ndarray]:
        name, parameters = json.loads(form)
        return (make_form(name, **parameters)(x, float(c)),)


class BatchNormalization(OpRun):
    """Of inference; ONNX's own takes the one of opset 9 to be training."""

    op_domain = ""

    def _run(
        self,
        x: np.ndarray,
        scale: np.ndarray,
        bias: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
        epsilon: float = 1e-5,
        **_: object,
    ) -> tuple[np.ndarray]:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        rows = [array.reshape(shape) for array in (scale, bias, mean, variance)]
        y = (x - rows[2]) / np.sqrt(rows[3] + np.float32(epsilon)) * rows[0] + rows[1]
        return (y.astype(x.dtype),)


def _reference(
    proto: onnx.ModelProto, thresholds: tuple[Threshold, ...], form: ForgedFunction
) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    result.opset_import.append(onnx.helper.make_opsetid("test", 1))
    nodes = list(result.graph.node)
    edges = [(layer, t) for t in thresholds for layer in t.site.layers]
    for layer, threshold in edges:
        output = layer.node.outputs[0].name
        place = next(i for i, node in enumerate(nodes) if output in node.output)
        fresh = _at_input(nodes, nodes[place], layer.data_index, form, threshold.c)
        nodes[place:place] = fresh
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def _at_input(
    nodes: list[onnx.NodeProto],
    node: onnx.NodeProto,
    index: int,
    form: ForgedFunction,
    c: float,
) -> list[onnx.NodeProto]:
    """Gives the node f_c of its input; behind a DequantizeLinear, quantised like that."""
    name = f"{node.output[0]}.{index}.f"
    attributes = {"form": json.dumps([form.name, form.parameters()]), "c": repr(c)}
    fresh = [
        onnx.helper.make_node(
            "Definition", [node.input[index]], [name], domain="test", **attributes
        )
    ]
    chain: list[onnx.NodeProto] = []
    source = node.input[index]
    while (maker := producer_among(nodes, source)) is not None:
        if not chain and maker.op_type != "DequantizeLinear":
            break
        chain.insert(0, maker)
        if maker.op_type == "QuantizeLinear":
            for place, original in enumerate(chain):
                copy = onnx.NodeProto()
                copy.CopyFrom(original)
                copy.name, copy.output[0] = "", f"{name}{place}"
                copy.input[0] = fresh[-1].output[0]
                fresh.append(copy)
            break
        source = maker.input[0]
    node.input[index] = fresh[-1].output[0]
    return fresh


def producer_among(nodes: list[onnx.NodeProto], tensor: str) -> onnx.NodeProto | None:
    return next((node for node in nodes if tensor in node.output), None)


def evaluate(proto: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    """All outputs, computed by ONNX's reference."""
    with np.errstate(over="ignore", invalid="ignore"):  # its Sigmoid tries both sides
        return ReferenceEvaluator(proto, new_ops=[Definition, BatchNormalization]).run(
            None, {"x": x}
        )


def assert_computes_the_reference(
    outcome: Outcome, x: np.ndarray, exact: bool, tolerance: float = 1e-5
) -> None:
    """Equal outputs, or equal to within `tolerance` of the largest; and the form does show."""
    original = evaluate(outcome.before, x)
    expected = evaluate(outcome.reference, x)
    found = evaluate(outcome.after, x)
    assert any((a != b).any() for a, b in zip(original, expected, strict=True)), "no effect"
    for y, wanted in zip(found, expected, strict=True):
        assert y.dtype == wanted.dtype
        if exact:
            np.testing.assert_array_equal(y, wanted)
        else:
            scale = float(np.abs(wanted).max())
            np.testing.assert_allclose(y, wanted, rtol=0, atol=tolerance * scale)
