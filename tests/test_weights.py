"""Where a weight is stored, and which of its entries belong to an input feature."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from lipcompile import model_io
from lipcompile.sites import Selector, find_sites
from lipcompile.weights import columns_of, stored_weight

RNG = np.random.default_rng(0)
ARRAYS = {
    "W": RNG.normal(size=(4, 6)).astype("f4"),
    "T": RNG.normal(size=(6, 4)).astype("f4"),
    "H": RNG.normal(size=(4, 6)).astype("f2"),
    "Q": RNG.integers(-127, 127, (4, 6)).astype("i1"),
    "QS": np.full(6, 0.02, "f4"),
    "QZ": np.array([3, -5, 0, 7, 1, 2], "i1"),
    "K": RNG.normal(size=(6, 2, 3, 3)).astype("f4"),  # two groups of a Conv over 4 channels
    "KT": RNG.normal(size=(4, 3, 3, 3)).astype("f4"),
    "L": RNG.normal(size=(5, 4)).astype("f4"),
}
FLAT, IMAGE = "float[N,4] x", "float[N,4,5,5] x"
CASES = {
    "MatMul": (FLAT, "h = Relu(x) y = MatMul(h, W)"),
    "MatMul, weight on the left": ("float[4,N] x", "h = Relu(x) y = MatMul(L, h)"),
    "Gemm": (FLAT, "h = Relu(x) y = Gemm(h, W)"),
    "Gemm, transB": (FLAT, "h = Relu(x) y = Gemm<transB = 1>(h, T)"),
    "Gemm, transA": ("float[4,N] x", "h = Relu(x) y = Gemm<transA = 1>(h, W)"),
    "Gemm, weight on the left": ("float[4,N] x", "h = Relu(x) y = Gemm(L, h)"),
    "Gemm, weight on the left, transB": (FLAT, "h = Relu(x) y = Gemm<transB = 1>(L, h)"),
    "Transpose": (FLAT, "h = Relu(x) v = Transpose(T) y = MatMul(h, v)"),
    "Cast": (FLAT, "h = Relu(x) v = Cast<to = 1>(H) y = MatMul(h, v)"),
    "DequantizeLinear": (
        FLAT,
        "h = Relu(x) v = DequantizeLinear<axis = 1>(Q, QS, QZ) y = MatMul(h, v)",
    ),
    "Constant": (FLAT, "h = Relu(x) v = Constant<value = CONSTANT>() y = MatMul(h, v)"),
    "shared": (FLAT, "h = Relu(x) a = MatMul(x, W) b = MatMul(h, W) y = Add(a, b)"),
    "shared, behind Cast": (
        FLAT,
        "h = Relu(x) v = Cast<to = 1>(H) a = MatMul(x, v) b = MatMul(h, v) y = Add(a, b)",
    ),
    "Conv in groups": (IMAGE, "h = Relu(x) y = Conv<group = 2>(h, K)"),
    "ConvTranspose": (IMAGE, "h = Relu(x) y = ConvTranspose(h, KT)"),
    "ConvTranspose in groups": (IMAGE, "h = Relu(x) y = ConvTranspose<group = 2>(h, KT)"),
}


def load(inputs: str, body: str, ir_version: int = 8) -> model_io.LoadedModel:
    stored = "float[4,6] CONSTANT" if "CONSTANT" in body else None
    body = body.replace("v = Constant<value = CONSTANT>()", "")
    dims = "a,b,c,d" if inputs == IMAGE else "a,b"
    proto = onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["": 17]> g ({inputs}) => '
        f"(float[{dims}] y) {{ {body} }}"
    )
    if stored:
        tensor = onnx.numpy_helper.from_array(ARRAYS["W"])
        node = onnx.helper.make_node("Constant", [], ["v"], value=tensor)
        proto.graph.node.insert(0, node)
    used = {name for node in proto.graph.node for name in node.input}
    for name in sorted(used & set(ARRAYS)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(ARRAYS[name], name))
        if ir_version < 4:
            array = ARRAYS[name]
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            proto.graph.input.append(
                onnx.helper.make_tensor_value_info(name, kind, array.shape)
            )
    return model_io.load(proto)


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()  # optimised, a quantised MatMul rounds its input as well
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def zero_column(loaded: model_io.LoadedModel, feature: int) -> onnx.ModelProto:
    (site,) = find_sites(loaded.graph_ir, Selector("all")).sites
    (layer,) = site.layers
    weight = stored_weight(layer.node, 1 - layer.data_index)
    assert not isinstance(weight, str)
    array = weight.array()
    columns = columns_of(layer, array.shape)
    features = np.arange(columns.count) == feature
    weight.store(np.where(columns.spread(features), weight.zeros(), array), "layer/weight")
    result = model_io.render(loaded.proto, loaded.graph_ir)
    onnx.checker.check_model(result, full_check=True)
    return result


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("ir_version", [3, 8])
def test_a_zeroed_column_is_an_input_feature_of_zero(name: str, ir_version: int) -> None:
    inputs, body = CASES[name]
    shape = {"float[4,N] x": (4, 3), FLAT: (3, 4), IMAGE: (3, 4, 5, 5)}[inputs]
    x = np.abs(RNG.normal(size=shape)).astype("f4")
    axis = 0 if inputs.startswith("float[4") else 1
    for feature in range(4):
        loaded = load(inputs, body, ir_version)
        before = run(loaded.proto, x)
        masked = np.moveaxis(x.copy(), axis, 0)
        masked[feature] = 0
        expected = run(loaded.proto, np.moveaxis(masked, 0, axis))
        if "shared" in name:  # the other reader keeps the whole weight
            w = (ARRAYS["W"] if name == "shared" else ARRAYS["H"]).astype("f4")
            expected = before - np.outer(x[:, feature], w[feature])
        after = run(zero_column(loaded, feature), x)
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-5)
        assert np.abs(after - before).max() > 1e-3


def test_an_edit_that_changes_nothing_gives_the_same_bytes() -> None:
    loaded = load(*CASES["MatMul"])
    before = loaded.proto.SerializeToString(deterministic=True)
    after = zero_column(loaded, feature=99)
    assert after.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("h = Relu(x) s = Exp(W) y = MatMul(h, s)", "is made by Exp"),
        (
            "h = Relu(x) v = DequantizeLinear<axis = 1>(Q, QS, QZ) a = MatMul(x, v) "
            "b = MatMul(h, v) y = Add(a, b)",
            "is quantised, and shared with another operator",
        ),
    ],
)
def test_a_weight_that_cannot_be_edited_says_why(body: str, reason: str) -> None:
    (site,) = find_sites(load(FLAT, body).graph_ir, Selector("all")).sites
    layer = site.layers[0]
    assert stored_weight(layer.node, 1 - layer.data_index) == reason
