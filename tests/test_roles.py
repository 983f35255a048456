"""Which layers are stem, head, attention projection or MLP, and which are not, and why not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lipcompile.linear_layers import Constants, find_constants, find_linear_layers
from lipcompile.roles import (
    Layers,
    attention_layers,
    head_layers,
    is_passive,
    mlp_layers,
    stem_layers,
)

INITIALIZERS = {
    "W": np.eye(4, dtype=np.float32),
    "K": np.ones((1, 1, 1, 1), np.float32),
    "B": np.ones(4, np.float32),
    "S": np.array(0.5, np.float32),
    "Z": np.array(0, np.int8),
    "PADS": np.zeros(8, np.int64),
    "SHAPE": np.array([4, 4]),
    "TABLE": np.ones((9, 4), np.float32),
    "ZERO": np.array([0]),
    "ONE": np.array([1]),
    "TRIPS": np.array(2),
    "YES": np.array(True),
}


def model(body: str, inputs: str = "float[4,4] x", outputs: str = "float[4,4] y") -> ir.Model:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1]> '
        f"g ({inputs}) => ({outputs}) {{ {body} }}"
    )
    for name, array in INITIALIZERS.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


Analysis = Callable[[ir.Graph, Layers, Constants], set[ir.Node]]


def having(analysis: Analysis, subject: ir.Model) -> set[str]:
    constants = find_constants(subject.graph)
    layers, _ = find_linear_layers(subject, constants)
    by_node = {layer.node: layer for layer in layers}
    return {by_node[node].name for node in analysis(subject.graph, by_node, constants)}


def dense_pairs(graph: ir.Graph, layers: Layers, constants: Constants) -> set[ir.Node]:
    return mlp_layers(layers, constants)


# Stem

STEM = {
    "Transpose": "h = Transpose(x) y = MatMul(h, W)",
    "normalisation": "a = Sub(x, B) h = Div(a, S) y = MatMul(h, W)",
    "normalisation with a constant on the left": "h = Sub(B, x) y = MatMul(h, W)",
    "BatchNormalization": "h = BatchNormalization(x, B, B, B, B) y = MatMul(h, W)",
    "Q and DQ": "q = QuantizeLinear(x, S, Z) h = DequantizeLinear(q, S, Z) y = MatMul(h, W)",
    "Pad": "h = Pad(x, PADS) y = Conv(h, K)",
    "a Pad as wide as the input": "s = Shape(x) h = Pad(x, s) y = Conv(h, K)",
    "Focus, as YOLO has it": (
        "a = Slice(x, ZERO, ONE) b = Slice(x, ONE, ONE) c = Slice(x, ZERO, ZERO) "
        "h = Concat<axis = 0>(a, b, c) y = Conv(h, K)"
    ),
    "grey repeated as colours": "h = Concat<axis = 0>(x, x, x) y = Conv(h, K)",
    "a constant channel added": "h = Concat<axis = 0>(x, W) y = Conv(h, K)",
    "Cast and Resize": "a = Cast<to = 1>(x) h = Resize(a, , B) y = Conv(h, K)",
    "scale computed from the shape": (
        "s = Shape(x) f = Cast<to = 1>(s) h = Mul(x, f) y = MatMul(h, W)"
    ),
    "Reshape to the shape of another tensor": (
        "r = Relu(x) s = Shape(r) h = Reshape(x, s) y = MatMul(h, W)"
    ),
    "constant operand on the left of MatMul": "h = Transpose(x) y = MatMul(W, h)",
}


@pytest.mark.parametrize("body", STEM.values(), ids=STEM)
def test_stem_is_seen_through(body: str):
    assert having(stem_layers, model(body)) == {"y"}


NO_STEM = {
    "behind an activation": "h = Relu(x) y = MatMul(h, W)",
    "behind another layer": "t = Identity(x) h = MatMul(t, W) y = MatMul(h, W)",
    "a sum of image and activation": "a = Relu(x) h = Add(x, a) y = MatMul(h, W)",
    "joined with an activation": "a = Relu(x) h = Concat<axis = 0>(x, a) y = Conv(h, K)",
    "joined twice with an activation": (
        "a = Relu(x) h = Concat<axis = 0>(x, x, a) y = Conv(h, K)"
    ),
    "behind a pool": "h = MaxPool<kernel_shape = [1, 1]>(x) y = Conv(h, K)",
    "only its shape comes from the input": (
        "a = Relu(x) s = Shape(x) h = Expand(a, s) y = MatMul(h, W)"
    ),
    "only its indices come from the input": (
        "a = Relu(x) i = Cast<to = 7>(x) h = Gather(a, i) y = MatMul(h, W)"
    ),
}


@pytest.mark.parametrize("body", NO_STEM.values(), ids=NO_STEM)
def test_stem_is_not(body: str):
    assert "y" not in having(stem_layers, model(body))


def test_bias_computed_from_the_input_makes_no_stem():
    assert having(stem_layers, model("h = Relu(x) y = Gemm(h, W, x)")) == set()


def test_every_input_has_its_stem():
    body = "a = Identity(x) b = Identity(z) c = MatMul(a, W) d = MatMul(b, W) y = Add(c, d)"
    assert having(stem_layers, model(body, "float[4,4] x, float[4,4] z")) == {"c", "d"}


# Head

HEAD = {
    "at the end": ("h = Relu(x) y = MatMul(h, W)", {"y"}),
    "behind a bias and Softmax": (
        "h = Relu(x) a = MatMul(h, W) b = Add(a, B) y = Softmax(b)",
        {"a"},
    ),
    "behind a decoding of boxes": (
        "h = Relu(x) a = MatMul(h, W) s = Sigmoid(a) m = Mul(s, S) n = Sub(m, B) y = Exp(n)",
        {"a"},
    ),
    "only the last of a chain": (
        "h = Relu(x) a = MatMul(h, W) b = Relu(a) y = MatMul(b, W)",
        {"y"},
    ),
    "in a QDQ model": (
        "h = Relu(x) a = MatMul(h, W) q = QuantizeLinear(a, S, Z) "
        "y = DequantizeLinear(q, S, Z)",
        {"a"},
    ),
    "each scale of a detector": (
        "h = Relu(x) f = MatMul(h, W) g = Relu(f) a = MatMul(g, W) b = MatMul(f, W) "
        "c = Relu(b) d = MatMul(c, W) s = Reshape(a, SHAPE) t = Reshape(d, SHAPE) "
        "y = Concat<axis = 0>(s, t)",
        {"a", "d"},
    ),
    "box and score multiplied": (
        "h = Relu(x) a = MatMul(h, W) b = MatMul(h, W) s = Sigmoid(b) y = Mul(a, s)",
        {"a", "b"},
    ),
    "scores joined with a result that is computed from them": (
        "h = Relu(x) a = MatMul(h, W) b = Relu(a) c = MatMul(b, W) y = Concat<axis = 0>(a, c)",
        {"a", "c"},
    ),
    "the last writer to a residual stream, and no other": (
        "e = Relu(x) a = MatMul(e, W) b = Relu(a) c = MatMul(b, W) r = Add(e, c) "
        "d = MatMul(r, W) f = Relu(d) g = MatMul(f, W) y = Add(r, g)",
        {"g"},
    ),
    "no other than the last even behind LayerNorm": (
        "e = Relu(x) a = MatMul(e, W) b = Relu(a) c = MatMul(b, W) r = Add(e, c) "
        "n = LayerNormalization(r, B) d = MatMul(n, W) f = Relu(d) g = MatMul(f, W) "
        "s = Add(r, g) y = LayerNormalization(s, B)",
        {"g"},
    ),
    "consumed in a body": (
        "h = Relu(x) a = MatMul(h, W) y = If(YES) <then_branch = t () => (float[4,4] p) "
        "{ p = Abs(a) }, else_branch = e () => (float[4,4] q) { q = Neg(a) }>",
        {"a"},
    ),
    "before a layer that is refused": (
        "h = Relu(x) a = MatMul(h, W) b = Relu(a) y = com.microsoft.FusedMatMul(b, W)",
        set(),
    ),
    "before a layer in a body": (
        "h = Relu(x) a = MatMul(h, W) b = Relu(a) y = If(YES) <then_branch = t () => "
        "(float[4,4] p) { p = MatMul(b, W) }, else_branch = e () => (float[4,4] q) "
        "{ q = MatMul(b, W) }>",
        set(),
    ),
}


@pytest.mark.parametrize(("body", "heads"), HEAD.values(), ids=HEAD)
def test_head_is_the_last_layer_before_an_output(body: str, heads: set[str]):
    assert having(head_layers, model(body)) == heads


def test_before_a_recurrent_layer_there_is_no_head():
    body = (
        "h = Relu(x) a = MatMul(h, W) u = Unsqueeze(a, ZERO) r = Unsqueeze(W, ZERO) "
        "l, m, n = LSTM<hidden_size = 1>(u, r, r) y = Squeeze(m)"
    )
    assert having(head_layers, model(body)) == set()


def test_every_output_has_its_head():
    body = "h = Relu(x) a = MatMul(h, W) y = Add(a, B) z = MatMul(h, W)"
    outputs = "float[4,4] y, float[4,4] z"
    assert having(head_layers, model(body, outputs=outputs)) == {"a", "z"}


def test_output_that_is_consumed_inside_has_a_head_too():
    body = "h = Relu(x) a = MatMul(h, W) y = Sigmoid(a) b = Relu(a) z = MatMul(b, W)"
    outputs = "float[4,4] y, float[4,4] z"
    assert having(head_layers, model(body, outputs=outputs)) == {"a", "z"}


def test_feature_map_that_is_an_output_and_sums_branches_has_no_head_of_its_own():
    body = "h = Relu(x) a = MatMul(h, W) y = Add(h, a) b = Relu(y) z = MatMul(b, W)"
    outputs = "float[4,4] y, float[4,4] z"
    assert having(head_layers, model(body, outputs=outputs)) == {"z"}


def test_layer_that_is_hardened_already_still_comes_last():
    """Else forging more layers of a hardened model would take the next one for its head."""
    subject = model(
        "h = Relu(x) a = MatMul(h, W) b = Relu(a) [f] f = Mul(b, b) y = MatMul(f, W)"
    )
    next(node for node in subject.graph if node.name == "f").name = "lipcompile/y/Mul"
    assert having(head_layers, subject) == set()


# Attention

QKV = "e = LayerNormalization(x, B) "
ATTENTION = {
    "decomposed, with bias and scale": (
        QKV + "q = MatMul(e, W) k = MatMul(e, W) v = MatMul(e, W) "
        "qb = Add(q, B) kb = Add(B, k) vb = Add(v, B) "
        "qr = Reshape(qb, SHAPE) kr = Reshape(kb, SHAPE) vr = Reshape(vb, SHAPE) "
        "qt = Transpose(qr) kt = Transpose(kr) vt = Transpose(vr) "
        "s = MatMul(qt, kt) sc = Div(s, S) m = Softmax(sc) c = MatMul(m, vt) "
        "ct = Transpose(c) cr = Reshape(ct, SHAPE) o = MatMul(cr, W) ob = Add(o, B) "
        "r = Add(x, ob) n = LayerNormalization(r, B) f1 = MatMul(n, W) f1b = Add(f1, B) "
        "g = Relu(f1b) f2 = MatMul(g, W) y = Add(r, f2)",
        {"q", "k", "v", "o"},
    ),
    "scale computed from Shape, before the product": (
        QKV + "q = MatMul(e, W) k = MatMul(e, W) v = MatMul(e, W) s = Shape(q) "
        "d = Gather(s, ONE) f = Cast<to = 1>(d) r = Sqrt(f) t = Div(S, r) qs = Mul(q, t) "
        "kt = Transpose(k) p = MatMul(qs, kt) m = Softmax(p) c = MatMul(m, v) "
        "o = MatMul(c, W) y = Add(x, o)",
        {"q", "k", "v", "o"},
    ),
    "split of a fused qkv": (
        QKV + "w = MatMul(e, W) wb = Add(w, B) q, k, v = Split<num_outputs = 3>(wb) "
        "kt = Transpose(k) p = MatMul(q, kt) m = Softmax(p) c = MatMul(m, v) "
        "o = MatMul(c, W) y = Add(x, o)",
        {"w", "o"},
    ),
    "fused qkv taken apart by Gather": (
        QKV + "w = MatMul(e, W) r = Reshape(w, SHAPE) q = Gather(r, ZERO) k = Gather(r, ONE) "
        "v = Gather(r, TRIPS) p = MatMul(q, k) m = Softmax(p) c = MatMul(m, v) "
        "o = MatMul(c, W) y = Add(x, o)",
        {"w", "o"},
    ),
    "in a QDQ model": (
        QKV + "q = MatMul(e, W) k = MatMul(e, W) v = MatMul(e, W) "
        "qq = QuantizeLinear(q, S, Z) qd = DequantizeLinear(qq, S, Z) "
        "p = MatMul(qd, k) m = Softmax(p) c = MatMul(m, v) cq = QuantizeLinear(c, S, Z) "
        "cd = DequantizeLinear(cq, S, Z) o = MatMul(cd, W) y = Add(x, o)",
        {"q", "k", "v", "o"},
    ),
    "Einsum": (
        QKV + "q = MatMul(e, W) k = MatMul(e, W) v = MatMul(e, W) "
        'p = Einsum<equation = "ij,kj->ik">(q, k) m = Softmax(p) '
        'c = Einsum<equation = "ij,jk->ik">(m, v) o = MatMul(c, W) y = Add(x, o)',
        {"q", "k", "v", "o"},
    ),
    "a product fused with its scale by ONNX Runtime": (
        QKV + "q = MatMul(e, W) k = MatMul(e, W) v = MatMul(e, W) "
        "p = com.microsoft.FusedMatMul<alpha = 0.5, transB = 1>(q, k) m = Softmax(p) "
        "c = com.microsoft.FusedMatMul(m, v) o = MatMul(c, W) y = Add(x, o)",
        {"q", "k", "v", "o"},
    ),
    "the standard operator": (
        QKV + "q = MatMul(e, W) k = MatMul(e, W) v = MatMul(e, W) vb = Add(v, B) "
        "c = Attention(q, k, vb) o = MatMul(c, W) y = Add(x, o)",
        {"q", "k", "v", "o"},
    ),
    "MultiHeadAttention of com.microsoft": (
        QKV + "q = MatMul(e, W) k = MatMul(e, W) v = MatMul(e, W) "
        "c = com.microsoft.MultiHeadAttention<num_heads = 1>(q, k, v, B) "
        "o = MatMul(c, W) y = Add(x, o)",
        {"q", "k", "v", "o"},
    ),
    "Attention of com.microsoft, which holds q, k and v": (
        QKV + "c = com.microsoft.Attention<num_heads = 1>(e, W, B) o = MatMul(c, W) "
        "y = Add(x, o)",
        {"o"},
    ),
    "1x1 convolutions": (
        QKV + "q = Conv(e, K) k = Conv(e, K) v = Conv(e, K) qr = Reshape(q, SHAPE) "
        "kr = Reshape(k, SHAPE) vr = Reshape(v, SHAPE) p = MatMul(qr, kr) m = Softmax(p) "
        "c = MatMul(m, vr) cr = Reshape(c, SHAPE) o = Conv(cr, K) y = Add(x, o)",
        {"q", "k", "v", "o"},
    ),
}


@pytest.mark.parametrize(("body", "projections"), ATTENTION.values(), ids=ATTENTION)
def test_attention_projections_and_nothing_else(body: str, projections: set[str]):
    assert having(attention_layers, model(body)) == projections


def test_query_behind_a_layer_norm_of_its_own_is_no_neighbour_of_the_product():
    body = (
        QKV + "q = MatMul(e, W) k = MatMul(e, W) n = LayerNormalization(q, B) "
        "p = MatMul(n, k) y = Softmax(p)"
    )
    assert having(attention_layers, model(body)) == {"k"}


def test_elementwise_gates_are_no_attention():
    body = "h = Relu(x) a = MatMul(h, W) b = MatMul(h, W) c = Mul(a, b) y = MatMul(c, W)"
    assert having(attention_layers, model(body)) == set()


# MLP

ERF = "d = Div({0}, S) e = Erf(d) p = Add(e, S) m = Mul({0}, p) g = Mul(m, S) "  # Gelu
MLP = {
    "Relu": ("h = Relu(x) a = MatMul(h, W) b = Relu(a) y = MatMul(b, W)", {"a", "y"}),
    "Gemm and bias": (
        "h = Relu(x) a = Gemm(h, W, B) b = Relu(a) y = Gemm(b, W, B)",
        {"a", "y"},
    ),
    "bias apart": (
        "h = Relu(x) a = MatMul(h, W) b = Add(a, B) c = Relu(b) y = MatMul(c, W)",
        {"a", "y"},
    ),
    "Gelu from Erf": (
        "h = Relu(x) a = MatMul(h, W) b = Add(a, B) " + ERF.format("b") + "y = MatMul(g, W)",
        {"a", "y"},
    ),
    "Gelu from Tanh": (
        "h = Relu(x) a = MatMul(h, W) c = Pow(a, TRIPS) d = Mul(c, S) e = Add(a, d) "
        "f = Mul(e, S) t = Tanh(f) p = Add(t, S) m = Mul(a, p) g = Mul(S, m) "
        "y = MatMul(g, W)",
        {"a", "y"},
    ),
    "the Gelu operator": (
        "h = Relu(x) a = MatMul(h, W) g = Gelu(a) y = MatMul(g, W)",
        {"a", "y"},
    ),
    "FastGelu of com.microsoft": (
        "h = Relu(x) a = MatMul(h, W) g = com.microsoft.FastGelu(a, B) y = MatMul(g, W)",
        {"a", "y"},
    ),
    "SiLU": (
        "h = Relu(x) a = MatMul(h, W) s = Sigmoid(a) g = Mul(a, s) y = MatMul(g, W)",
        {"a", "y"},
    ),
    "SwiGLU": (
        "h = Relu(x) a = MatMul(h, W) u = MatMul(h, W) s = Sigmoid(a) g = Mul(a, s) "
        "p = Mul(g, u) y = MatMul(p, W)",
        {"a", "u", "y"},
    ),
    "SwiGLU from one layer": (
        "h = Relu(x) a = MatMul(h, W) b, u = Split<num_outputs = 2>(a) s = Sigmoid(b) "
        "g = Mul(b, s) p = Mul(g, u) y = MatMul(p, W)",
        {"a", "y"},
    ),
    "a bilinear gate": (
        "h = Relu(x) a = MatMul(h, W) u = MatMul(h, W) p = Mul(a, u) y = MatMul(p, W)",
        {"a", "u", "y"},
    ),
    "reshaped on the way": (
        "h = Relu(x) a = MatMul(h, W) r = Reshape(a, SHAPE) g = Relu(r) t = Transpose(g) "
        "y = MatMul(t, W)",
        {"a", "y"},
    ),
    "three in a row": (
        "h = Relu(x) a = MatMul(h, W) b = Relu(a) c = MatMul(b, W) d = Relu(c) "
        "y = MatMul(d, W)",
        {"a", "c", "y"},
    ),
    "FC1 fed by the graph input is still an FC1": (
        "a = MatMul(x, W) b = Relu(a) y = MatMul(b, W)",
        {"y"},
    ),
    "in a QDQ model": (
        "h = Relu(x) a = MatMul(h, W) g = Relu(a) q = QuantizeLinear(g, S, Z) "
        "d = DequantizeLinear(q, S, Z) y = MatMul(d, W)",
        {"a", "y"},
    ),
}


@pytest.mark.parametrize(("body", "pairs"), MLP.values(), ids=MLP)
def test_mlp_is_two_dense_layers_around_an_activation(body: str, pairs: set[str]):
    assert having(dense_pairs, model(body)) == pairs


NO_MLP = {
    "no activation": "h = Relu(x) a = MatMul(h, W) b = Add(a, B) y = MatMul(b, W)",
    "convolutions": "h = Relu(x) a = Conv(h, K) b = Relu(a) y = Conv(b, K)",
    "dense behind a convolution": "h = Relu(x) a = Conv(h, K) b = Relu(a) y = MatMul(b, W)",
    "convolution behind dense": "h = Relu(x) a = MatMul(h, W) b = Relu(a) y = Conv(b, K)",
    "across LayerNormalization": (
        "h = Relu(x) a = MatMul(h, W) b = Relu(a) n = LayerNormalization(b, B) "
        "y = MatMul(n, W)"
    ),
    "across a decomposed LayerNorm": (
        "h = Relu(x) a = MatMul(h, W) b = Relu(a) m = ReduceMean(b) d = Sub(b, m) "
        "p = Mul(d, d) v = ReduceMean(p) s = Sqrt(v) n = Div(d, s) y = MatMul(n, W)"
    ),
    "across Softmax": "h = Relu(x) a = MatMul(h, W) b = Softmax(a) y = MatMul(b, W)",
    "across a residual Add of the input": (
        "h = Relu(x) a = MatMul(h, W) b = Relu(a) c = Add(b, x) y = MatMul(c, W)"
    ),
    "across a pool": (
        "h = Relu(x) a = MatMul(h, W) b = Relu(a) c = GlobalAveragePool(b) y = MatMul(c, W)"
    ),
    "a residual stream is no activation": (
        "e = LayerNormalization(x, B) a = MatMul(e, W) r = Add(e, a) y = MatMul(r, W)"
    ),
    "attention is no MLP": (
        "e = LayerNormalization(x, B) q = MatMul(e, W) k = MatMul(e, W) v = MatMul(e, W) "
        "s = MatMul(q, k) m = Softmax(s) c = MatMul(m, v) y = MatMul(c, W)"
    ),
}


@pytest.mark.parametrize("body", NO_MLP.values(), ids=NO_MLP)
def test_mlp_is_not(body: str):
    assert having(dense_pairs, model(body)) == set()


# What the walks rest on


def test_passive_operators_have_one_data_operand():
    subject = model(
        "a = Relu(x) b = Add(a, B) c = Add(a, x) d = Clip(a, S) e = Reshape(a, SHAPE) "
        "f = Concat<axis = 0>(a, x) y = Relu(f)"
    )
    constants = find_constants(subject.graph)
    passive = {n.outputs[0].name for n in subject.graph if is_passive(n, constants)}
    assert passive == {"b", "d", "e", "f"}


@pytest.mark.parametrize("analysis", [stem_layers, head_layers, attention_layers, dense_pairs])
def test_analysis_takes_time_linear_in_the_graph(analysis: Analysis):
    """A ladder of doublings has 2^300 paths; only a walk without memory would follow them."""
    ladder = " ".join(f"a{i + 1} = Add(a{i}, a{i})" for i in range(300))
    subject = model(
        f"h = Relu(x) a0 = MatMul(h, W) {ladder} b = MatMul(a300, W) y = MatMul(b, a300)"
    )
    having(analysis, subject)
