"""Dead channels: which go, which stay and why, and that the model computes the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from lipcompile import model_io
from lipcompile.passes.drop_dead_channels import (
    CompactionReport,
    DropDeadChannels,
    DroppedChannels,
    KeptChannels,
)
from tests.passes.compacting import (
    ROWS,
    Case,
    assert_same_outputs,
    build,
    claimed,
    compact,
    expose,
    floats,
)

# What must change

K2 = {"K2": (1, [1, 3])}
W2 = {"W2": (0, [1, 3])}
C13 = {"c": (1, 3)}


def conv(between: str, last: str = "r", opset: int = 17) -> Case:
    """Conv -> `between`, which reads c -> Conv with two dead columns."""
    body = f"c = Conv(x, K1, B1) {between} y = Conv({last}, K2)"
    return Case(body, K2, C13, opset=opset)


def flat(between: str, features: str = "f") -> Case:
    """Conv [N,4,4,4] -> `between` -> MatMul that ignores channel 2 at every position."""
    dead = {"F64": (0, range(32, 48))}
    return Case(f"c = Conv(x, K1) {between} y = MatMul({features}, F64)", dead, {"c": (2,)})


POINTWISE = re.findall(
    r"\w+",
    "Abs Ceil Cos Dropout Elu Erf Exp HardSigmoid HardSwish Identity LeakyRelu Neg Relu Selu "
    "Sigmoid Sin Softplus Softsign Tanh ThresholdedRelu",
)
CASES = {
    **{f"case 3: {op}": conv(f"r = {op}(c)") for op in POINTWISE},
    "case 3: Sqrt": conv("a = Abs(c) r = Sqrt(a)"),
    "case 3: Cast": conv("d = Cast<to = 11>(c) r = Cast<to = 1>(d)"),
    "case 3: Clip": conv("r = Clip(c, low, high)"),
    "case 3: Dropout in inference": conv("r = Dropout(c, scale, NO)"),
    "case 3: per channel, [C,1,1]": conv("r = Mul(c, A)"),
    "case 3: per channel, [1,C,1,1], on the left": conv("r = Sub(P, c)"),
    "case 3: the same for every channel": conv("s = Add(c, Q) r = Div(s, high)"),
    "case 3: PRelu": conv("r = PRelu(c, A)"),
    "case 3: x * Sigmoid(x)": conv("s = Sigmoid(c) r = Mul(c, s)"),
    "case 3: x * Sigmoid(mean of x)": conv(
        "m = GlobalAveragePool(c) s = Sigmoid(m) r = Mul(c, s)"
    ),
    "case 3: forged by Where": conv(
        "a = Abs(c) b = Greater(a, high) r = Where(b, c, low)"
    ),
    "case 3: x * mask": conv("m = ReduceMax<axes = [1]>(x) e = Slice(m, starts, ends, axes) "
                             "w = Pad(e, pads) q = MaxPool<kernel_shape = [2, 2]>(w) "
                             "r = Mul(c, q)"),
    "case 3: quantised with one scale": conv(
        "q = QuantizeLinear(c, scale, point) r = DequantizeLinear(q, scale, point)"
    ),
    "case 4: BatchNormalization": conv("n = BatchNormalization(c, S, B1, M, V) r = Relu(n)"),
    "case 4: InstanceNormalization": conv("r = InstanceNormalization(c, S, B1)"),
    "case 4: one constant twice": conv("r = BatchNormalization(c, V, B1, M, V)"),
    "case 5: MaxPool": conv("r = MaxPool<kernel_shape = [2, 2]>(c)"),
    "case 5: AveragePool": conv("r = AveragePool<kernel_shape = [2, 2]>(c)"),
    "case 5: GlobalMaxPool": conv("r = GlobalMaxPool(c)"),
    "case 2: depthwise": conv("d = Conv<group = 4>(c, KD, S) r = Relu(d)"),
    "case 2: depthwise, transposed": conv("r = ConvTranspose<group = 4>(c, KD, S)"),
    "case 1: ConvTranspose": Case("c = ConvTranspose(x, KT, B1) y = Conv(c, K2)", K2, C13),
    "case 1: read by ConvTranspose": Case(
        "c = Conv(x, K1) y = ConvTranspose(c, KG)", {"KG": (0, [1, 3])}, C13
    ),
    "case 1: MatMul and Add": Case(
        "c = MatMul(x, W1) b = Add(c, B1) y = MatMul(b, W2)", W2, C13, ROWS
    ),
    "case 1: MatMul with the weight on the left": Case(
        "t = Transpose(x) c = MatMul(T1, t) r = Relu(c) y = MatMul(T2, r)",
        {"T2": (1, [1, 3])}, C13, ROWS,
    ),
    "case 1: Gemm": Case("c = Gemm(x, W1, B1) y = Gemm(c, W2)", W2, C13, ROWS),
    "case 1: Gemm, transB": Case(
        "c = Gemm<transB = 1>(x, T1, B1) y = Gemm<transB = 1>(c, T2)",
        {"T2": (1, [1, 3])}, C13, ROWS,
    ),
    "case 1: Gemm, transA": Case(
        "t = Transpose(x) c = Gemm<transA = 1>(t, W1) u = Transpose(c) "
        "y = Gemm<transA = 1>(u, W2)", W2, C13, ROWS,
    ),
    "case 1: Gemm with the weight on the left": Case(
        "c = Gemm<transB = 1>(T1, x) y = Gemm(T2, c)", {"T2": (1, [1, 3])}, C13, ROWS
    ),
    "case 1: weights behind Cast, Transpose and Constant": Case(
        "w = Cast<to = 1>(H) v = Transpose(w) c = MatMul(x, v) s = Identity(B1) "
        "k = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>() b = Add(c, k) d = Add(b, s) "
        "y = MatMul(d, W2)",
        W2, C13, ROWS, {"H": np.random.default_rng(2).normal(size=(4, 5)).astype("f2")},
    ),
    "case 1: two consumers must agree": Case(
        "c = MatMul(x, W1) a = MatMul(c, W2) b = MatMul(c, F4) y = Add(a, b)",
        {"W2": (0, [1, 3]), "F4": (0, [2, 3])}, {"c": (3,)}, ROWS,
    ),
    "case 1: a bias that two layers share": Case(
        "c = MatMul(x, W1) d = Add(c, B1) a = MatMul(d, W2) e = Gemm<transB = 1>(x, T1, B1) "
        "b = MatMul(e, F4) y = Add(a, b)",
        {"W2": (0, [1, 3]), "F4": (0, [2])}, {"c": (1, 3), "e": (2,)}, ROWS,
    ),
    "fixed point: rows that go leave further columns dead": Case(
        "b = MatMul(x, W1) r = Relu(b) c = MatMul(r, L) s = Relu(c) y = MatMul(s, W2)",
        W2, {"b": (0, 2), "c": (1, 3)}, ROWS,
        {"L": np.array([[0, 1, 0, 2], [1, 0, 2, 0], [0, 3, 0, 4], [5, 0, 6, 7]], "f4")},
    ),
    "one channel stays": Case(
        "c = MatMul(x, W1) d = Add(c, B1) e = Exp(d) a = MatMul(e, W2) b = MatMul(x, U) "
        "y = Add(a, b)",
        {"W2": (0, range(4))}, {"c": (1, 2, 3)}, ROWS,
        {"U": np.random.default_rng(3).normal(size=(5, 6)).astype("f4")},
    ),
    "shapes 1: NHWC and back": conv(
        "t = Transpose<perm = [0, 2, 3, 1]>(c) s = Mul(t, S) "
        "r = Transpose<perm = [0, 3, 1, 2]>(s)"
    ),
    "shapes 1: Squeeze and Unsqueeze": conv(
        "g = GlobalAveragePool(c) s = Squeeze(g, axes) a = Add(s, B1) r = Unsqueeze(a, axes)"
    ),
    "shapes 2: Pad": conv("r = Pad(c, pads)"),
    "shapes 2: Slice": conv("r = Slice(c, starts, ends, axes)"),
    "shapes 2: Resize": conv("r = Resize(c, roi, scales)"),
    "shapes 2: ReduceMean": conv("r = ReduceMean<axes = [2, 3]>(c)"),
    "shapes 2: ReduceMean without its axes": Case(
        "c = Conv(x, K1, B1) m = ReduceMean<axes = [-1, 2], keepdims = 0>(c) "
        "y = MatMul(m, W2)", W2, C13,
    ),
    "shapes 2: ReduceSum": conv("r = ReduceSum(c, axes)"),
    "opset 9: attributes that are inputs later": conv(
        "a = Clip<min = -1.0, max = 1.0>(c) b = Pad<pads = [0, 0, 1, 1, 0, 0, 1, 1]>(a) "
        "d = Slice<axes = [2, 3], starts = [1, 1], ends = [4, 4]>(b) "
        "e = ReduceSum<axes = [2, 3], keepdims = 0>(d) f = Unsqueeze<axes = [2, 3]>(e) "
        "g = Squeeze<axes = [2, 3]>(f) h = Unsqueeze<axes = [2, 3]>(g) "
        "i = Upsample(h, scales) r = Dropout(i)", opset=9,
    ),
    "opset 21: inputs that were attributes": conv(
        "a = ReduceMean(c, axes) b = Gelu(a) d = Pad(b, ones, , axes) r = Dropout(d)",
        opset=21,
    ),
    "opset 21: Reshape that copies no length": Case(
        "c = Conv(x, K1) f = Reshape<allowzero = 1>(c, flat) y = MatMul(f, F64)",
        {"F64": (0, range(32, 48))}, {"c": (2,)}, opset=21,
    ),
    "shapes 3: Flatten": flat("f = Flatten(c)"),
    "shapes 3: Flatten of 1 x 1": Case(
        "c = Conv(x, K1) g = GlobalAveragePool(c) f = Flatten(g) b = Add(f, B1) "
        "y = MatMul(b, W2)", W2, C13,
    ),
    "shapes 3: Flatten, and per-feature constants": flat(
        "g = Flatten(c) f = Mul(g, features)"
    ),
    "shapes 3: Reshape [0,-1]": flat("r = Relu(c) f = Reshape(r, keep)"),
    "shapes 3: Reshape [-1,64]": flat("f = Reshape(c, flat)"),
    "shapes 3: Reshape [-1,1,1,64], then [-1,64]": flat(
        "g = Reshape(c, twice) f = Reshape(g, again)"
    ),
    "shapes 3: Reshape [x.size(0),-1]": flat(
        "s = Shape(c) n = Gather(s, zero) u = Unsqueeze(n, zeros) "
        "t = Concat<axis = 0>(u, minus) f = Reshape(c, t)"
    ),
    "shapes 3: Flatten of NHWC": Case(
        "c = Conv(x, K1) t = Transpose<perm = [0, 2, 3, 1]>(c) f = Flatten(t) "
        "y = MatMul(f, F64)",
        {"F64": (0, range(2, 64, 4))}, {"c": (2,)},
    ),
    "shapes 4: Concat": Case(
        "c = Conv(x, K1) d = Conv(x, K3) e = Concat<axis = 1>(c, d) r = Relu(e) "
        "y = Conv(r, K8)",
        {"K8": (1, [0, 2, 5, 7])}, {"c": (0, 2), "d": (1, 3)},
    ),
    "shapes 4: Concat with something else": Case(
        "c = Conv(x, KX) e = Concat<axis = -3>(x, c) y = Conv(e, KY)",
        {"KY": (1, [1, 4])}, {"c": (1,)},
        arrays={
            "KX": np.random.default_rng(5).normal(size=(2, 3, 1, 1)).astype("f4"),
            "KY": np.random.default_rng(6).normal(size=(5, 5, 1, 1)).astype("f4"),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_dead_channels_go_and_the_outputs_stay(name: str) -> None:
    before = build(CASES[name])
    after, report = compact(before)
    assert claimed(report) == CASES[name].dropped
    assert_same_outputs(before, after)
    assert [n.op_type for n in after.graph.node] == [n.op_type for n in before.graph.node]
    assert floats(before) - floats(after) == report.parameters > 0


@pytest.mark.parametrize("name", list(CASES))
def test_nothing_is_left_to_drop(name: str) -> None:
    """One application reaches the fixed point, and the same graph gives the same bytes."""
    once, first = compact(build(CASES[name]))
    twice, second = compact(once)
    assert second.dropped == () and second.parameters == 0
    assert second.kept == first.kept
    assert twice.SerializeToString(deterministic=True) == once.SerializeToString(
        deterministic=True
    )
    again, third = compact(build(CASES[name]))
    assert (again, third) == (once, first)


# What must be left alone, and why

GROUPED = "is a grouped convolution"
REPLACED = "is a graph input, and a caller may replace it"
LEFT = {
    "a residual join": (
        conv("d = Conv(x, K3) s = Add(c, d) r = Relu(s)"),
        {"c": (2, "is combined with another activation"),
         "d": (2, "is combined with another activation")},
    ),
    "a sum with the input": (
        Case("c = Conv<pads = [1, 1, 1, 1]>(x, KR) s = Add(c, x) y = Conv(s, KZ)",
             {"KZ": (1, [1])}, {}, arrays={
                "KR": np.random.default_rng(8).normal(size=(3, 3, 3, 3)).astype("f4"),
                "KZ": np.random.default_rng(9).normal(size=(2, 3, 1, 1)).astype("f4")}),
        {"c": (1, "is combined with another activation")},
    ),
    "an input": (
        Case("y = MatMul(x, R)", {"R": (0, [1])}, {}, ROWS,
             {"R": np.ones((5, 2), "f4")}),
        {"x": (1, "is an input of the graph")},
    ),
    "groups that read": (
        Case("c = Conv(x, K1) y = Conv<group = 2>(c, KG)", {"KG": (1, [1])}, {}),
        {"c": (2, f"'y' {GROUPED}")},
    ),
    "groups that make": (
        Case("b = Conv(x, K1) c = Conv<group = 2>(b, KG) y = Conv(c, K2)", K2, {}),
        {"c": (2, f"'c' {GROUPED}")},
    ),
    "depthwise with several outputs per channel": (
        Case("b = Conv(x, K1) c = Conv<group = 4>(b, KM) y = Conv(c, K8)",
             {"K8": (1, [0, 1])}, {},
             arrays={"KM": np.random.default_rng(10).normal(size=(8, 1, 1, 1)).astype("f4")}),
        {"c": (2, f"'c' {GROUPED}")},
    ),
    "a weight that another layer shares": (
        Case("c = MatMul(x, W1) d = MatMul(x, W1) e = Sigmoid(d) a = MatMul(c, W2) "
             "b = MatMul(e, F4) y = Add(a, b)", W2, {}, ROWS),
        {"c": (2, "the weight of 'c' is shared with another operator")},
    ),
    "a shared weight that reads": (
        Case("c = MatMul(x, W1) d = MatMul(x, U) a = MatMul(c, W2) b = MatMul(d, W2) "
             "y = Add(a, b)", W2, {}, ROWS,
             {"U": np.random.default_rng(11).normal(size=(5, 4)).astype("f4")}),
        {"c": (2, "the weight of 'a' is shared with another operator"),
         "d": (2, "the weight of 'b' is shared with another operator")},
    ),
    "a quantised weight that makes": (
        Case("w = DequantizeLinear(QW, scale) c = MatMul(x, w) y = MatMul(c, W2)",
             W2, {}, ROWS, {"QW": np.arange(-10, 10, dtype="i1").reshape(5, 4)}),
        {"c": (2, "the weight of 'c' is quantised")},
    ),
    "a quantised weight that reads": (
        Case("c = MatMul(x, W1) w = DequantizeLinear(QW, scale) y = MatMul(c, w)",
             {"QW": (0, [1, 3])}, {}, ROWS, {"QW": np.ones((4, 6), "i1")}),
        {"c": (2, "the weight of 'y' is quantised")},
    ),
    "a weight that is computed": (
        Case("w = Exp(W1) c = MatMul(x, w) y = MatMul(c, W2)", W2, {}, ROWS),
        {"c": (2, "the weight of 'c' is made by Exp")},
    ),
    "a bias that is computed": (
        Case("e = Exp(B1) c = MatMul(x, W1) d = Add(c, e) y = MatMul(d, W2)", W2, {}, ROWS),
        {"c": (2, "a constant of 'd' is made by Exp")},
    ),
    "activations quantised by channel": (
        conv("q = QuantizeLinear<axis = 1>(c, SQ, ZQ) "
             "r = DequantizeLinear<axis = 1>(q, SQ, ZQ)"),
        {"c": (2, "'r' quantises each channel by its own scale")},
    ),
    "a shape that is read": (
        conv("s = Shape(c) f = Cast<to = 1>(s) m = ReduceMax(f) r = Mul(c, m)"),
        {"c": (2, "has its shape read by 's'")},
    ),
    "positions that are not known": (
        Case("c = Conv(x, K1) f = Flatten(c) y = MatMul(f, F64)",
             {"F64": (0, range(16))}, {}, "float[N,3,H,6] x"),
        {"f": (16, "'c' has a shape that is not known")},
    ),
    "a Reshape that splits otherwise": (
        Case("c = Conv(x, K1) f = Reshape(c, odd) y = MatMul(f, R)", {"R": (0, [1])}, {},
             arrays={"R": np.random.default_rng(12).normal(size=(16, 2)).astype("f4")}),
        {"f": (1, "is made by 'f' (Reshape), not by a layer that could lose it")},
    ),
    "an operator that mixes channels": (
        conv("r = Softmax<axis = 1>(c)"),
        {"r": (2, "is made by 'r' (Softmax), not by a layer that could lose it")},
    ),
    "an operator that mixes channels beside": (
        conv("s = Softmax<axis = 1>(c) m = ReduceMean(s) r = Add(c, m)"),
        {"c": (2, "is read by 's' (Softmax), which may mix channels")},
    ),
    "an operator of a runtime": (
        conv("r = com.microsoft.QuickGelu(c)"),
        {"r": (2, "is made by 'r' (QuickGelu), not by a layer that could lose it")},
    ),
    "statistics of the batch": (
        conv("r, m, v = BatchNormalization<training_mode = 1>(c, S, B1, M, V)"),
        {"r": (2, "is made by 'r' (BatchNormalization), not by a layer that could lose it")},
    ),
    "indices that are read": (
        conv("r, i = MaxPool<kernel_shape = [2, 2]>(c) f = Cast<to = 1>(i) "
             "m = ReduceMean(f) q = Add(r, m)", "q"),
        {"q": (2, "is made by 'q' (Add), not by a layer that could lose it")},
    ),
    "a join of axes that are not channels": (
        conv("r = Concat<axis = 2>(c, c)"),
        {"r": (2, "is made by 'r' (Concat), not by a layer that could lose it")},
    ),
}  # fmt: skip


def assert_left_alone(proto: onnx.ModelProto, kept: Mapping[str, tuple[int, str]]) -> None:
    after, report = compact(proto)
    assert report.dropped == () and report.parameters == 0
    assert {row.layer: (row.channels, row.reason) for row in report.kept} == kept
    assert after.SerializeToString(deterministic=True) == proto.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("name", list(LEFT))
def test_what_cannot_be_proven_is_left_alone_and_says_why(name: str) -> None:
    case, kept = LEFT[name]
    rank = 3 if name == "a Reshape that splits otherwise" else None
    assert_left_alone(build(case, rank=rank), kept)


def test_an_output_of_the_graph_is_left_alone() -> None:
    proto = build(Case("c = MatMul(x, W1) y = MatMul(c, W2)", W2, {}, ROWS))
    proto.graph.output.append(helper.make_tensor_value_info("c", 1, ["n", 4]))
    assert_left_alone(proto, {"c": (2, "is an output of the graph")})


def test_what_a_body_reads_is_left_alone() -> None:
    branch = "{name} = b{name} () => (float[N,4] {out}) {{ {out} = Abs(c) }}"
    bodies = [
        branch.format(name=n, out=o) for n, o in (("then_branch", "p"), ("else_branch", "q"))
    ]
    case = Case(
        f"c = MatMul(x, W1) i = If(YES) <{', '.join(bodies)}> m = ReduceMean(i) "
        "a = MatMul(c, W2) y = Add(a, m)", W2, {}, ROWS,
    )  # fmt: skip
    assert_left_alone(build(case), {"c": (2, "is read inside a subgraph")})


@pytest.mark.parametrize("name", ["case 1: MatMul and Add", "case 4: BatchNormalization"])
def test_in_ir_version_3_every_constant_is_an_input_whose_shape_stays(name: str) -> None:
    reason = "is an input of the graph, as every weight before IR version 4"
    kept = {"c": (2, f"the weight of 'c' {reason}")}
    assert_left_alone(build(CASES[name], opset=9, ir_version=3), kept)


@pytest.mark.parametrize(
    ("name", "initializer", "kept"),
    [
        ("case 1: Gemm", "W1", {"c": (2, f"the weight of 'c' {REPLACED}")}),
        ("case 1: Gemm", "W2", {}),  # zeros that a caller may replace prove nothing dead
        ("case 1: Gemm", "B1", {"c": (2, f"a constant of 'c' {REPLACED}")}),
        ("case 4: BatchNormalization", "M", {"c": (2, f"a constant of 'n' {REPLACED}")}),
        (
            "case 2: depthwise",
            "KD",
            {"r": (2, "is made by 'r' (Relu), not by a layer that could lose it")},
        ),
    ],
)
def test_a_default_that_a_caller_may_replace_is_left_alone(
    name: str, initializer: str, kept: Mapping[str, tuple[int, str]]
) -> None:
    proto = build(CASES[name])
    expose(proto, initializer)
    assert_left_alone(proto, kept)


def test_a_channel_with_one_position_in_use_stays() -> None:
    case = flat("f = Flatten(c)")
    dead = Case(case.body, {"F64": (0, range(33, 48))}, {})
    assert_left_alone(build(dead), {})


@pytest.mark.parametrize("name", list(CASES))
def test_without_zero_columns_nothing_changes(name: str) -> None:
    case = CASES[name]
    if not name.startswith("fixed point"):  # which has zeros of its own
        assert_left_alone(build(replace(case, zero={})), {})


# What goes with it


def test_stated_shapes_follow_and_others_keep_their_bytes() -> None:
    before = onnx.shape_inference.infer_shapes(build(CASES["shapes 3: Flatten"]))
    stated = {info.name: info for info in before.graph.value_info}
    assert {"c", "f"} <= set(stated)
    after, _ = compact(before)
    left = {info.name: info for info in after.graph.value_info}
    assert "c" not in left and "f" not in left
    assert all(info == stated[name] for name, info in left.items())
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output


def test_nodes_out_of_order_are_no_obstacle() -> None:
    before = build(CASES["case 4: BatchNormalization"])
    nodes = list(before.graph.node)[::-1]
    del before.graph.node[:]
    before.graph.node.extend(nodes)
    loaded = model_io.load(before)
    report = DropDeadChannels(block=1)(loaded.graph_ir)
    assert claimed(report) == C13
    assert_same_outputs(before, model_io.render(loaded.proto, loaded.graph_ir))


def test_a_report_prints_itself_and_becomes_json() -> None:
    report = CompactionReport(
        (DroppedChannels("a", (1, 3), 4),), (KeptChannels("b", 2, "is a stem"),), 40
    )
    assert str(report) == (
        "dropped 2 dead channels of 1 layer: 40 parameters fewer\n"
        "kept 2 dead channels of 'b': is a stem"
    )
    assert report.to_json() == {
        "dropped": ({"layer": "a", "channels": (1, 3), "count": 4},),
        "kept": ({"layer": "b", "channels": 2, "reason": "is a stem"},),
        "parameters": 40,
    }


def test_a_graph_is_as_deep_as_it_likes() -> None:
    nodes = [helper.make_node("MatMul", ["x", "W1"], ["v0"])]
    for i in range(30_000):
        nodes.append(helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]))
    nodes.append(helper.make_node("MatMul", ["v30000", "W2"], ["y"]))
    before = build(CASES["case 1: MatMul and Add"])
    del before.graph.node[:]
    before.graph.node.extend(nodes)
    loaded = model_io.load(before)
    report = DropDeadChannels(block=1)(loaded.graph_ir)
    assert claimed(report) == {"v0": (1, 3)}


@pytest.mark.parametrize(
    ("channels", "dead", "left"),
    [(32, 6, 32), (32, 17, 16), (24, 1, 24), (24, 9, 16), (20, 3, 20), (20, 5, 16), (7, 3, 4)],
)
def test_channels_in_front_of_a_convolution_go_in_whole_blocks(
    channels: int, dead: int, left: int
) -> None:
    """Of n channels a multiple of gcd(n, 16) stays."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(channels, 3, 3, 3)).astype(np.float32)
    second = rng.normal(size=(4, channels, 3, 3)).astype(np.float32)
    second[:, :dead] = 0
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1,3,8,8] x) => (float[1,4,4,4] y) '
        "{ c = Conv(x, A) r = Relu(c) y = Conv(r, Z) }"
    )
    for name, array in (("A", first), ("Z", second)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    loaded = model_io.load(proto)
    report = DropDeadChannels()(loaded.graph_ir)
    weights = {t.name: t for t in model_io.render(proto, loaded.graph_ir).graph.initializer}
    assert weights["A"].dims[0] == weights["Z"].dims[1] == left
    kept = sum(row.channels for row in report.kept)
    assert kept == dead - (channels - left)
