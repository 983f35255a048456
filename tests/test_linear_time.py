"""Work of the passes grows with the number of nodes, whatever the shape of the graph.

Counted are executed lines, never seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lipcompile
from lipcompile import CalibrationTable, Selector, compiling, model_io
from lipcompile.calibration.counts import SiteCounts
from lipcompile.calibration.table import DataRecord, SiteRange
from lipcompile.forged import Hard
from lipcompile.forging import thresholds_of
from lipcompile.layer_cr import LayerCr
from lipcompile.linear_layers import find_constants
from lipcompile.signs import nonnegative_values
from lipcompile.sites import find_sites
from lipcompile.weights import layer_columns

SMALL, TIMES = 40, 4
ALLOWED = 1.3 * TIMES  # a quadratic part would bring it to 16


def lines_of(action: Callable[[], object]) -> int:
    """How many lines of Python an action executes."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


class Graph:
    """Nodes in a row, behind a stem and in front of a head."""

    def __init__(self) -> None:
        self.nodes = [
            helper.make_node("MatMul", ["x", "W"], ["stem"], "stem"),
            helper.make_node("Relu", ["stem"], ["r"]),
        ]

    def __call__(self, op: str, output: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def model(self, last: str) -> onnx.ModelProto:
        self("MatMul", "y", self("Relu", "last", last), "W")
        ends = [helper.make_tensor_value_info(e, TensorProto.FLOAT, ["N", 4]) for e in "xy"]
        constants = {
            "W": np.eye(4, dtype=np.float32),
            "B": np.ones(4, np.float32),
            "SCALE": np.array(0.1, np.float32),
            "ZERO": np.array(0, np.uint8),
        }
        tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
        graph = helper.make_graph(self.nodes, "g", ends[:1], ends[1:], tensors)
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def layers_along(op: str, count: int) -> onnx.ModelProto:
    """A chain of one operator, and a layer that reads every tensor on it."""
    graph, x, ends = Graph(), "r", []
    for i in range(count):
        x = graph(op, f"c{i}", x)
        ends.append(graph("MatMul", f"m{i}", x, "W"))
    return graph.model(graph("Sum", "sum", *ends))


def one_input(count: int) -> onnx.ModelProto:
    """One tensor, read by many layers and many poolings' worth of chains."""
    graph, ends = Graph(), []
    for i in range(count):
        ends.append(graph("MatMul", f"m{i}", graph("Identity", f"i{i}", "r"), "W"))
        ends.append(graph("MatMul", f"n{i}", "r", "W"))
    return graph.model(graph("Concat", "cat", *ends, axis=0))


def one_quantised(count: int) -> onnx.ModelProto:
    """One quantised tensor, dequantised for every layer anew."""
    graph = Graph()
    q = graph("QuantizeLinear", "q", "r", "SCALE", "ZERO")
    ends = [
        graph("MatMul", f"m{i}", graph("DequantizeLinear", f"d{i}", q, "SCALE", "ZERO"), "W")
        for i in range(count)
    ]
    return graph.model(graph("Sum", "sum", *ends))


def residual_sums(count: int) -> onnx.ModelProto:
    """x + relu(layer(x)), again and again: every sum depends on all before it."""
    graph, x = Graph(), "r"
    for i in range(count):
        y = graph(
            "Relu", f"q{i}", graph("Add", f"b{i}", graph("MatMul", f"m{i}", x, "W"), "B")
        )
        x = graph("Add", f"a{i}", x, y)
    return graph.model(x)


GRAPHS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "layers along rearrangements": lambda n: layers_along("Identity", n),
    "layers along activations": lambda n: layers_along("Sigmoid", n),
    "one input": one_input,
    "one quantised input": one_quantised,
    "residual sums": residual_sums,
}


def table_of(proto: onnx.ModelProto, selector: Selector, *, alike: bool) -> CalibrationTable:
    """Made-up maxima, and counts for the weight variant at c_r = 2^-7."""
    loaded = model_io.load(proto)
    selection = find_sites(loaded.graph_ir, selector)
    maxima = [1.0 if alike else 1.0 + i for i in range(len(selection.sites))]
    rows = tuple(
        SiteRange(site.tensor, site.dtype, absmax)
        for site, absmax in zip(selection.sites, maxima, strict=True)
    )
    record = DataRecord("npz", "made up", 1, "0" * 64)
    table = CalibrationTable(loaded.digest, "g", rows, record, None, {}, "none")
    counts = {
        (threshold.site.tensor, threshold.c): SiteCounts(
            threshold.site.tensor, columns.data_axis, threshold.c, 9, (9, *[0] * 3)
        )
        for threshold in thresholds_of(selection, table, LayerCr(2**-7), Hard())
        for layer in threshold.site.layers
        if not isinstance(columns := layer_columns(layer), str)
    }
    return CalibrationTable(
        loaded.digest, "g", rows, record, None, {}, "none", counts=tuple(counts.values())
    )


def growth(work: Callable[[onnx.ModelProto], Callable[[], object]], kind: str) -> float:
    """Lines for a graph of four times the size, over those for the small one."""
    few, many = (lines_of(work(GRAPHS[kind](SMALL * times))) for times in (1, TIMES))
    return many / few


kinds = pytest.mark.parametrize("kind", GRAPHS)


@kinds
@pytest.mark.parametrize("rule", ["mlp", "all"])
def test_inspecting_is_linear(kind: str, rule: Any) -> None:
    def work(proto: onnx.ModelProto) -> Callable[[], object]:
        loaded = model_io.load(proto)
        return lambda: find_sites(loaded.graph_ir, Selector(rule))

    assert growth(work, kind) < ALLOWED


@kinds
@pytest.mark.parametrize("variant", ["hard alike", "soft alike", "smooth", "weight"])
def test_hardening_from_a_table_is_linear(
    kind: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What ONNX Runtime does when it loads the result is not ours.
    monkeypatch.setattr(compiling, "check_outputs", lambda *_: None)
    form, _, alike = variant.partition(" ")
    request = {"variant": "weight"} if form == "weight" else {"form": form}

    def work(proto: onnx.ModelProto) -> Callable[[], object]:
        table = table_of(proto, Selector("all"), alike=bool(alike))
        return lambda: lipcompile.harden(
            proto, table=table, selector=Selector("all"), **request
        )

    assert growth(work, kind) < ALLOWED


@pytest.mark.parametrize("op", ["Identity", "Sigmoid", "Abs"])
def test_a_long_chain_meets_no_recursion(op: str) -> None:
    graph, x = Graph(), "r"
    for i in range(3 * sys.getrecursionlimit()):
        x = graph(op, f"c{i}", x)
    proto = graph.model(graph("MatMul", "mid", x, "W"))
    selector = Selector("all")
    table = table_of(proto, selector, alike=True)
    result = lipcompile.harden(proto, table=table, selector=selector, form="hard")
    assert [row.layer for row in result.rows if row.selected] == ["mid", "y"]


def test_planted_quadratic_work_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs as they were found once: anew from every site."""

    def one_by_one(values: Any, constants: Any) -> frozenset[Any]:
        return frozenset(v for v in values if v in nonnegative_values([v], constants))

    def work(proto: onnx.ModelProto) -> Callable[[], object]:
        graph = model_io.load(proto).graph_ir.graph
        constants = find_constants(graph)
        values = [v for node in graph for v in node.outputs]
        return lambda: one_by_one(values, constants)

    assert growth(work, "residual sums") > ALLOWED
