"""Networks drawn at random: with dead channels dropped they compute the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from lipcompile.passes import channel_liveness
from tests.passes.compacting import assert_same_outputs, compact, floats, run


class Network:
    """A small CNN that is drawn block by block; a share of its weight columns is zero."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def constant(self, *shape: int, zero: bool = False) -> str:
        array = self.rng.normal(size=shape).astype("f4")
        if zero:
            array[:, self.rng.random(shape[1]) < 0.4] = 0
        self.tensors.append(numpy_helper.from_array(array, f"w{len(self.tensors)}"))
        return self.tensors[-1].name

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def conv(self, x: str, old: int, new: int) -> str:
        size = int(self.rng.choice([1, 3]))
        weight = self.constant(new, old, size, size, zero=True)
        bias = [self.constant(new)] if self.rng.random() < 0.5 else []
        return self.add("Conv", x, weight, *bias, pads=[size // 2] * 4)

    def block(self, kind: str, x: str, channels: int) -> tuple[str, int]:
        if kind in ("Relu", "Sigmoid", "LeakyRelu", "Neg"):
            return self.add(kind, x), channels
        if kind == "scale":
            return self.add("Mul", x, self.constant(channels, 1, 1)), channels
        if kind == "norm":
            names = [self.constant(channels) for _ in range(3)]
            positive = np.abs(self.rng.normal(size=channels)).astype("f4") + 0.5
            self.tensors.append(numpy_helper.from_array(positive, f"w{len(self.tensors)}"))
            return self.add(
                "BatchNormalization", x, *names, f"w{len(self.tensors) - 1}"
            ), channels
        if kind == "gate":
            return self.add("Mul", x, self.add("Sigmoid", x)), channels
        if kind == "residual":
            return self.add("Add", x, self.conv(x, channels, channels)), channels
        if kind == "depthwise":
            weight = self.constant(channels, 1, 3, 3)
            return self.add("Conv", x, weight, pads=[1] * 4, group=channels), channels
        if kind == "concat":
            joined = self.add("Concat", x, self.conv(x, channels, 3), axis=1)
            return joined, channels + 3
        if kind == "pool":
            return self.add("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4), channels
        new = int(self.rng.integers(3, 9))
        return self.conv(x, channels, new), new

    def head(self, x: str, channels: int, pooled: bool) -> None:
        x = self.add("GlobalAveragePool", x) if pooled else x
        features = channels * (1 if pooled else 16)
        x = self.add("Flatten", x)
        first = [self.dense(features, 12, True), self.constant(12)]
        x = self.add("LeakyRelu", self.add("Gemm", x, *first, transB=1))
        x = self.add("MatMul", x, self.dense(12, 10, False))
        x = self.add("LeakyRelu", self.add("Add", x, self.constant(10)))
        self.add("Gemm", x, self.dense(10, 3, True), self.constant(3), transB=1)

    def dense(self, old: int, new: int, transposed: bool) -> str:
        name = self.constant(new, old, zero=True)
        if not transposed:
            array = numpy_helper.to_array(self.tensors[-1]).T.copy()
            self.tensors[-1].CopyFrom(numpy_helper.from_array(array, name))
        return name

    def model(self, opset: int) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "y"
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", 1, ["n", 3, 4, 4])],
            [helper.make_tensor_value_info("y", 1, ["n", 3])],
            self.tensors,
        )
        version = helper.make_opsetid("", opset)
        return helper.make_model(graph, opset_imports=[version], ir_version=8)


BLOCKS = re.findall(
    r"\w+",
    "conv conv conv Relu Sigmoid LeakyRelu Neg scale norm gate residual depthwise concat pool",
)


def network(seed: int, kinds: Sequence[str], pooled: bool, opset: int) -> onnx.ModelProto:
    drawn = Network(np.random.default_rng(seed))
    x, channels = drawn.block("conv", "x", 3)
    for kind in kinds:
        x, channels = drawn.block(kind, x, channels)
    drawn.head(x, channels, pooled)
    return drawn.model(opset)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from(BLOCKS), max_size=8),
    st.booleans(),
    st.sampled_from([9, 13, 17, 21]),
)
def test_any_network_computes_the_same_with_what_was_claimed(seed, kinds, pooled, opset):
    before = network(seed, kinds, pooled, opset)
    after, report = compact(before)
    outputs = zip(run(before), run(after), strict=True)
    for old, new in outputs:
        scale = max(np.abs(old).max(), 1e-3)
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-5 * scale)
    assert len(after.graph.node) == len(before.graph.node)
    assert floats(before) - floats(after) == report.parameters
    assert bool(report.dropped) == (report.parameters > 0)
    _, second = compact(after)
    assert (second.dropped, second.kept) == ((), report.kept)
    sizes = {n.output[0]: n for n in before.graph.node}
    for row in report.dropped:
        assert len(row.channels) < row.count and row.layer in sizes


@pytest.mark.parametrize("opset", [9, 13, 17, 21])
@pytest.mark.parametrize("seed", range(5))
def test_a_live_channel_that_is_dropped_is_noticed(seed, opset, monkeypatch) -> None:
    """The planted failure: the comparison sees what it is there to see."""
    honest = channel_liveness.columns_used

    def one_too_few(layer, rows):
        used = honest(layer, rows).copy()
        used[np.flatnonzero(used)[:1]] = False
        return used

    before = network(seed, ["LeakyRelu", "conv", "gate", "conv", "norm"], False, opset)
    assert_same_outputs(before, compact(before)[0])
    monkeypatch.setattr(channel_liveness, "columns_used", one_too_few)
    after, report = compact(before)
    assert report.dropped
    with pytest.raises(AssertionError):
        assert_same_outputs(before, after)
