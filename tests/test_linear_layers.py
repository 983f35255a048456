"""What counts as a linear layer, how its weight may be stored, and what is refused and why."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lipcompile.linear_layers import (
    Constants,
    LinearLayer,
    Refusal,
    element_type,
    find_constants,
    find_linear_layers,
)

EYE = np.eye(4)
INITIALIZERS = {
    "W": EYE.astype(np.float32),
    "B": np.ones(4, np.float32),
    "H": EYE.astype(np.float16),
    "D": EYE,
    "BF": EYE.astype(ml_dtypes.bfloat16),
    "Q": EYE.astype(np.int8),
    "U": EYE.astype(np.uint8),
    "I": EYE.astype(np.int64),
    "MASK": EYE.astype(bool),
    "K": np.ones((1, 1, 1, 1), np.float32),
    "R": np.ones((1, 4, 4), np.float32),
    "S": np.array(0.5, np.float32),
    "HS": np.array(0.5, np.float16),
    "Z": np.array(0, np.int8),
    "UZ": np.array(0, np.uint8),
    "SHAPE": np.array([4, 4]),
    "TRIPS": np.array(2),
    "YES": np.array(True),
}


def model(
    body: str,
    inputs: str = "float[4,4] x",
    output: str = "float[4,4] y",
    opset: int = 21,
    initializers: Mapping[str, np.ndarray] = INITIALIZERS,
) -> ir.Model:
    """A graph over x, with the initializers above at hand and nothing inferred."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]> '
        f"g ({inputs}) => ({output}) {{ {body} }}"
    )
    for name, array in initializers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def found(subject: ir.Model) -> tuple[list[LinearLayer], list[Refusal]]:
    return find_linear_layers(subject, find_constants(subject.graph))


def only_layer(subject: ir.Model) -> LinearLayer:
    layers, refusals = found(subject)
    assert [r.code for r in refusals] == []
    (layer,) = layers
    return layer


# Layers

WEIGHTS = {
    "initializer": ("y = MatMul(h, W)", "init"),
    "Constant": ("c = Constant<value = float[4,4] {1}>() y = MatMul(h, c)", "Constant"),
    "Constant of floats": (
        "c = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>() y = MatMul(h, c)",
        "Constant",
    ),
    "Identity": ("w = Identity(W) y = MatMul(h, w)", "init->Identity"),
    "Cast": ("w = Cast<to = 1>(H) y = MatMul(h, w)", "init->Cast"),
    "CastLike": ("w = CastLike(H, S) y = MatMul(h, w)", "init->CastLike"),
    "Transpose": ("w = Transpose(W) y = MatMul(h, w)", "init->Transpose"),
    "Reshape": ("w = Reshape(R, SHAPE) y = MatMul(h, w)", "init->Reshape"),
    "DequantizeLinear": (
        "w = DequantizeLinear(Q, S, Z) y = MatMul(h, w)",
        "init->DequantizeLinear",
    ),
    "DequantizeLinear without zero point": (
        "w = DequantizeLinear(Q, S) y = MatMul(h, w)",
        "init->DequantizeLinear",
    ),
    "DequantizeLinear of com.microsoft": (
        "w = com.microsoft.DequantizeLinear(Q, S, Z) y = MatMul(h, w)",
        "init->DequantizeLinear",
    ),
    "ConstantOfShape": (
        "w = ConstantOfShape(SHAPE) y = MatMul(h, w)",
        "init->ConstantOfShape",
    ),
    "ConstantOfShape with a value": (
        "w = ConstantOfShape<value = float[1] {2}>(SHAPE) y = MatMul(h, w)",
        "init->ConstantOfShape",
    ),
    "chain": (
        "a = DequantizeLinear(Q, S, Z) b = Transpose(a) c = Identity(b) d = Reshape(c, SHAPE) "
        "w = Cast<to = 1>(d) y = MatMul(h, w)",
        "init->DequantizeLinear->Transpose->Identity->Reshape->Cast",
    ),
    "quantised and restored": (
        "q = QuantizeLinear(W, S, Z) w = DequantizeLinear(q, S, Z) y = MatMul(h, w)",
        "init->QuantizeLinear->DequantizeLinear",
    ),
    "computed from two constants": ("w = Mul(W, S) y = MatMul(h, w)", "init->Mul"),
    "used twice by one operator": ("w = Mul(W, W) y = MatMul(h, w)", "init->Mul"),
    "masked": ("w = Where(MASK, W, S) y = MatMul(h, w)", "init->Where"),
    "shape of a constant": (
        "s = Shape(W) w = ConstantOfShape(s) y = MatMul(h, w)",
        "init->Shape->ConstantOfShape",
    ),
}


@pytest.mark.parametrize(("body", "form"), WEIGHTS.values(), ids=WEIGHTS)
def test_weight_is_found_however_it_is_stored(body: str, form: str):
    layer = only_layer(model(f"h = Relu(x) {body}"))
    assert (layer.weight_form, layer.dtype, layer.data_index) == (form, "float32", 0)
    assert layer.data.name == "h"


OPERANDS = {
    "Conv": ("h = Relu(x) y = Conv(h, K)", 0),
    "Conv with a bias": ("h = Relu(x) y = Conv(h, K, B)", 0),
    "Conv with an empty bias": ("h = Relu(x) y = Conv(h, K, )", 0),
    "ConvTranspose": ("h = Relu(x) y = ConvTranspose(h, K)", 0),
    "Gemm": ("h = Relu(x) y = Gemm(h, W)", 0),
    "Gemm with a computed bias": ("h = Relu(x) y = Gemm(h, W, h)", 0),
    "Gemm with constant A": ("h = Relu(x) y = Gemm(W, h)", 1),
    "MatMul with the constant on the left": ("h = Relu(x) y = MatMul(W, h)", 1),
    "behind an empty optional input": (
        "h = Clip(x, , S) y = MatMul(h, W)",
        0,
    ),
}


@pytest.mark.parametrize(("body", "index"), OPERANDS.values(), ids=OPERANDS)
def test_data_operand_is_the_one_that_is_not_constant(body: str, index: int):
    layer = only_layer(model(body))
    assert (layer.data_index, layer.data.name, layer.name) == (index, "h", "y")


TYPES = {
    "float16": ("float16[4,4] x", "h = Relu(x) y = MatMul(h, H)", "float16"),
    "float64": ("double[4,4] x", "h = Relu(x) y = MatMul(h, D)", "float64"),
    "bfloat16": ("bfloat16[4,4] x", "h = Relu(x) y = MatMul(h, BF)", "bfloat16"),
    "float16 through Cast": (
        "float16[4,4] x",
        "h = Relu(x) w = Cast<to = 10>(W) y = MatMul(h, w)",
        "float16",
    ),
    "float16 scale of integers": (
        "float16[4,4] x",
        "h = Relu(x) w = DequantizeLinear(Q, HS, Z) y = MatMul(h, w)",
        "float16",
    ),
    "stated output_dtype": (
        "float16[4,4] x",
        "h = Relu(x) w = DequantizeLinear<output_dtype = 10>(Q, S, Z) y = MatMul(h, w)",
        "float16",
    ),
    "output_dtype left at 0": (
        "float16[4,4] x",
        "h = Relu(x) w = DequantizeLinear<output_dtype = 0>(Q, HS, Z) y = MatMul(h, w)",
        "float16",
    ),
    "ConstantOfShape of float16": (
        "float16[4,4] x",
        "h = Relu(x) w = ConstantOfShape<value = float16[1] {1}>(SHAPE) y = MatMul(h, w)",
        "float16",
    ),
}


@pytest.mark.parametrize(("inputs", "body", "dtype"), TYPES.values(), ids=TYPES)
def test_element_type_is_found_without_value_info(inputs: str, body: str, dtype: str):
    subject = model(body, inputs, inputs.replace("x", "y"))
    assert only_layer(subject).dtype == dtype


def test_element_type_falls_back_to_the_data_operand():
    subject = model("w = EyeLike(W) h = Relu(x) y = MatMul(h, w)")
    weight = subject.graph[-1].inputs[1]
    assert weight is not None and element_type(weight) == "float32"


def test_weight_may_be_a_graph_input_too_as_in_ir_version_3():
    subject = model("h = Relu(x) y = MatMul(h, W)", "float[4,4] x, float[4,4] W")
    assert [value.name for value in subject.graph.inputs] == ["x", "W"]
    assert only_layer(subject).weight_form == "init"


def test_layers_of_an_unsorted_graph_are_found():
    proto = ir.to_proto(model("h = Relu(x) w = Identity(W) a = MatMul(h, w) y = MatMul(a, W)"))
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    layers, refusals = found(ir.from_proto(proto))
    assert [layer.name for layer in layers] == ["y", "a"]
    assert refusals == []


def test_data_of_one_layer_may_be_the_result_of_another():
    layers, _ = found(model("h = Relu(x) a = MatMul(h, W) y = Gemm(a, W, B)"))
    assert [(layer.name, layer.data.name, layer.position) for layer in layers] == [
        ("a", "h", 1),
        ("y", "a", 2),
    ]


# Names


def test_unnamed_node_is_called_after_its_output():
    assert only_layer(model("h = Relu(x) [fc] y = MatMul(h, W)")).name == "fc"
    assert only_layer(model("h = Relu(x) y = MatMul(h, W)")).name == "y"


def test_repeated_names_are_told_apart_by_their_outputs():
    layers, _ = found(
        model("h = Relu(x) [fc] a = MatMul(h, W) [fc] b = MatMul(a, W) [g] y = MatMul(b, W)")
    )
    assert [layer.name for layer in layers] == ["fc@a", "fc@b", "g"]


def test_name_of_a_node_may_be_the_output_of_an_unnamed_one():
    layers, _ = found(model("h = Relu(x) [y] a = MatMul(h, W) y = MatMul(a, W)"))
    assert [layer.name for layer in layers] == ["y@a", "y@y"]


def test_names_are_unique_beside_a_refused_layer_of_the_same_name():
    layers, refusals = found(model("[fc] h = MatMul(x, W) [fc] y = MatMul(h, W)"))
    assert [r.code for r in refusals] == ["graph-input"]
    assert {layer.name for layer in layers}.isdisjoint(r.layer for r in refusals)


# What is no layer at all, and not listed

NO_LAYER = {
    "product of two activations": "h = Relu(x) y = MatMul(h, h)",
    "product of an activation and a graph input": "h = Relu(x) y = MatMul(h, x)",
    "Gemm of two activations with a constant bias": "h = Relu(x) y = Gemm(h, h, B)",
    "both operands constant": "a = MatMul(W, W) y = Add(x, a)",
    "both operands computed from constants": "w = Cast<to = 1>(H) a = Gemm(w, W) y = Abs(a)",
    "random weights": "h = Relu(x) w = RandomNormal<shape = [4, 4]>() y = MatMul(h, w)",
    "weights like random ones": "h = Relu(x) w = RandomNormalLike(W) y = MatMul(h, w)",
    "a random mask": "h = Relu(x) m = Bernoulli(W) w = Mul(W, m) y = MatMul(h, w)",
    "standard Attention": "h = Relu(x) y = Attention(h, h, h)",
    "Einsum of two activations": 'h = Relu(x) y = Einsum<equation = "ij,jk->ik">(h, h)',
    "a fused product of activations": "h = Relu(x) y = com.microsoft.FusedMatMul(h, h)",
    "an elementwise product": "h = Relu(x) y = Mul(h, W)",
    "both constant in a body": (
        "c = Cast<to = 9>(S) y = If(c) <then_branch = t () => (float[4,4] a) "
        "{ a = MatMul(W, W) }, else_branch = e () => (float[4,4] b) { b = Identity(x) }>"
    ),
}


@pytest.mark.parametrize("body", NO_LAYER.values(), ids=NO_LAYER)
def test_no_linear_layer_is_seen(body: str):
    assert found(model(body, opset=23)) == ([], [])


# What is refused

QUANTISED = ("quantised-operator", "reads integers, and forged functions need floats: use QDQ")
FUSED = ("fused-operator", "is a runtime's fused operator: export without its optimisation")
RECURRENT = ("recurrent", "is recurrent: its hidden state is no tensor of the graph")
COMPUTED = ("computed-weight", "its weight is computed from the input")
SUBGRAPH = ("subgraph", "stands inside a subgraph (the body of an If, Loop or Scan)")

REFUSED = {
    "fed by the graph input": (
        "y = MatMul(x, W)",
        ("graph-input", "is fed by a graph input, not by an activation"),
    ),
    "Conv with a weight from the input": ("w = Relu(x) h = Abs(x) y = Conv(h, w)", COMPUTED),
    "Conv with a weight from the shape of the input": (
        "s = Shape(x) w = ConstantOfShape(s) h = Abs(x) y = Conv(h, w)",
        COMPUTED,
    ),
    "Conv with a graph input as weight": ("h = Abs(x) y = Conv(h, x)", COMPUTED),
    "Conv of a constant with a computed weight": ("h = Abs(x) y = Conv(K, h)", COMPUTED),
    "Conv with a random weight": (
        "h = Abs(x) w = RandomNormal<shape = [1, 1, 1, 1]>() y = Conv(h, w)",
        COMPUTED,
    ),
    "integer MatMul": (
        "i = Cast<to = 7>(x) j = MatMul(i, I) y = Cast<to = 1>(j)",
        ("integer", "works on int64, and forged functions on floats"),
    ),
    "QLinearConv": (
        "q = QuantizeLinear(x, S, UZ) r = QLinearConv(q, S, UZ, Q, S, Z, S, UZ) "
        "y = DequantizeLinear(r, S, UZ)",
        QUANTISED,
    ),
    "QLinearMatMul": (
        "q = QuantizeLinear(x, S, Z) r = QLinearMatMul(q, S, Z, Q, S, Z, S, Z) "
        "y = DequantizeLinear(r, S, Z)",
        QUANTISED,
    ),
    "MatMulInteger": (
        "q = QuantizeLinear(x, S, UZ) r = MatMulInteger(q, Q) y = Cast<to = 1>(r)",
        QUANTISED,
    ),
    "ConvInteger": (
        "q = QuantizeLinear(x, S, UZ) r = ConvInteger(q, Q) y = Cast<to = 1>(r)",
        QUANTISED,
    ),
    "MatMulNBits": ("h = Relu(x) y = com.microsoft.MatMulNBits<K=4, N=4>(h, U, S)", QUANTISED),
    "FusedConv": ('y = com.microsoft.FusedConv<activation = "Relu">(x, K)', FUSED),
    "FusedMatMul": ("h = Relu(x) y = com.microsoft.FusedMatMul(h, W)", FUSED),
    "FusedGemm": ("h = Relu(x) y = com.microsoft.FusedGemm(h, W, B)", FUSED),
    "Attention of com.microsoft": (
        "h = Relu(x) y = com.microsoft.Attention<num_heads = 1>(h, W, B)",
        FUSED,
    ),
    "LSTM": ("h = Relu(x) y = LSTM<hidden_size = 1>(h, R, R)", RECURRENT),
    "GRU": ("h = Relu(x) y = GRU<hidden_size = 1>(h, R, R)", RECURRENT),
    "DeformConv": (
        "h = Relu(x) y = DeformConv(h, K, h)",
        ("deformable", "samples where its input says, so it is not linear in it"),
    ),
    "Einsum with a constant": (
        'h = Relu(x) y = Einsum<equation = "ij,jk->ik">(h, W)',
        ("einsum", "is an Einsum with a constant operand: export it as MatMul"),
    ),
    "Conv of a runtime's layout": (
        "h = Relu(x) y = com.microsoft.nchwc.Conv(h, K)",
        ("foreign-domain", "is an operator of 'com.microsoft.nchwc', not of ONNX itself"),
    ),
    "weight and data of unknown type": (
        "h = other.Source() w = Constant<value_ints = [1, 2, 3, 4]>() y = MatMul(h, w)",
        (
            "unknown-type",
            "the element type of its weight cannot be told: run onnx.shape_inference first",
        ),
    ),
    "in the body of an If": (
        "h = Relu(x) y = If(YES) <then_branch = t () => (float[4,4] a) { a = MatMul(h, W) }, "
        "else_branch = e () => (float[4,4] b) { b = Identity(h) }>",
        SUBGRAPH,
    ),
    "in the body of an If, with the body's own constant": (
        "h = Relu(x) y = If(YES) <then_branch = t () => (float[4,4] a) "
        "{ c = Constant<value = float[4,4] {1}>() a = MatMul(h, c) }, "
        "else_branch = e () => (float[4,4] b) { b = Identity(h) }>",
        SUBGRAPH,
    ),
    "in the body of a Loop": (
        "h = Relu(x) y = Loop(TRIPS, YES, h) <body = b (int64 i, bool c, float[4,4] v) => "
        "(bool d, float[4,4] o) { d = Identity(c) o = MatMul(v, W) }>",
        SUBGRAPH,
    ),
    "in an If in a Loop": (
        "h = Relu(x) y = Loop(TRIPS, YES, h) <body = b (int64 i, bool c, float[4,4] v) => "
        "(bool d, float[4,4] o) { d = Identity(c) o = If(d) <then_branch = t () => "
        "(float[4,4] a) { a = Gemm(v, W) }, else_branch = e () => (float[4,4] k) "
        "{ k = Identity(v) }> }>",
        SUBGRAPH,
    ),
    "a weight carried by a Loop": (
        "h = Relu(x) y = Loop(TRIPS, YES, W) <body = b (int64 i, bool c, float[4,4] v) => "
        "(bool d, float[4,4] o) { d = Identity(c) o = MatMul(h, v) }>",
        SUBGRAPH,
    ),
    "an LSTM in the body of an If": (
        "h = Relu(x) y = If(YES) <then_branch = t () => (float[4,4] a) "
        "{ c = Constant<value = float[1,4,4] {1}>() a = LSTM<hidden_size = 1>(h, c, R) }, "
        "else_branch = e () => (float[4,4] b) { b = Identity(h) }>",
        SUBGRAPH,
    ),
}


@pytest.mark.parametrize(("body", "verdict"), REFUSED.values(), ids=REFUSED)
def test_layer_is_refused_with_its_reason(body: str, verdict: tuple[str, str]):
    layers, refusals = found(model(body))
    assert layers == []
    assert [(r.code, r.reason) for r in refusals] == [verdict]


@pytest.mark.parametrize("how", ["name", "metadata"])
@pytest.mark.parametrize(
    "body",
    ["h = Mul(x, x)", "q = QuantizeLinear(x, S, Z) h = DequantizeLinear(q, S, Z)"],
    ids=["directly", "through a Q and DQ of its own"],
)
def test_layer_behind_a_forged_function_is_hardened_already(body: str, how: str):
    subject = model(f"{body} y = MatMul(h, W)")
    forged = subject.graph[-2]
    if how == "name":
        forged.name = "lipcompile/fc/Mul"
    else:
        forged.metadata_props["lipcompile.form"] = "hard"
    layers, (refusal,) = found(subject)
    assert layers == []
    assert refusal.code == "already-hardened"
    assert refusal.reason == "its input is forged already"


# Constants


def test_static_values_come_from_shapes_as_well_and_fixed_ones_do_not():
    subject = model("s = Shape(x) f = Cast<to = 1>(s) g = Sqrt(f) c = Mul(S, S) y = Mul(x, g)")
    constants = find_constants(subject.graph)
    assert {"f", "g"} & names_of(constants.fixed) == set()
    assert {"s", "f", "g", "c", "W"} <= names_of(constants.static)
    assert "y" not in names_of(constants.static)


def names_of(values: frozenset[ir.Value]) -> set[str | None]:
    return {value.name for value in values}


def test_constness_takes_time_linear_in_the_graph():
    """A ladder of doublings has 2^400 paths; only a walk without memory would follow them."""
    body = "a0 = Mul(W, W) " + " ".join(f"a{i + 1} = Add(a{i}, a{i})" for i in range(400))
    subject = model(f"{body} h = Relu(x) y = MatMul(h, a400)")
    constants = find_constants(subject.graph)
    assert isinstance(constants, Constants)
    layer = only_layer(subject)
    assert layer.weight_form.endswith("Mul" + "->Add" * 400)


@pytest.mark.parametrize(
    ("op", "weight", "attributes", "channels"),
    [
        ("Conv", (8, 3, 1, 1), "", 3),
        ("Conv", (8, 2, 1, 1), "<group = 4>", 8),
        ("ConvTranspose", (6, 2, 1, 1), "<group = 2>", 6),
        ("MatMul", (8, 8), "", None),
    ],
)
def test_channels_are_told_by_a_convolution_alone(
    op: str, weight: tuple[int, ...], attributes: str, channels: int | None
) -> None:
    model = onnx.parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N, C, H, W] x) => (float y) {{
            r = Relu (x)
            i = Identity (w)
            y = {op} {attributes} (r, i)
        }}
        """
    )
    tensor = onnx.numpy_helper.from_array(np.zeros(weight, "float32"), "w")
    model.graph.initializer.append(tensor)
    graph = ir.from_proto(model)
    layers, _ = find_linear_layers(graph, find_constants(graph.graph))
    assert [layer.channels for layer in layers] == [channels]
