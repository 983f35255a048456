"""Operators: the linear ones are what ONNX Runtime computes; the others are refused."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest

from lipcompile import model_io
from lipcompile.certifying.lipschitz.bounds import lipschitz_bounds, network_bounds
from lipcompile.certifying.lipschitz.rows import pull_rows
from lipcompile.errors import ModelError
from lipcompile.labelled import Normalisation
from lipcompile.runtime import RuntimeOptions, open_session
from tests.certifying.lipschitz.measuring import Dims, bounds_of, build, network_of

DIMS = (4, 5, 6)
# Sums of at most a hundred float32 products of about 1.
FLOAT32 = 1e-5


def drawn(*shape: int) -> np.ndarray:
    """The same numbers in whatever order tests run."""
    return np.random.default_rng(shape).standard_normal(shape)


def by_runtime(model: onnx.ModelProto, dims: Dims) -> np.ndarray:
    """What each pixel adds to the logits, [K, pixels]."""
    session = open_session(model.SerializeToString(), RuntimeOptions(threads=1), None)
    size = int(np.prod(dims))
    basis = np.eye(size, dtype=np.float32).reshape(size, 1, *dims)
    zero = np.zeros((1, *dims), np.float32)
    rows = [session.run(["y"], {"x": x})["y"].reshape(-1) for x in (zero, *basis)]
    matrix: np.ndarray = (np.array(rows[1:], float) - rows[0]).T
    return matrix


def by_steps(model: onnx.ModelProto, dims: Dims) -> np.ndarray:
    network = network_of(model, dims)
    last, count = len(network.steps) - 1, network.classes
    rows = np.eye(count).reshape(count, *network.steps[-1].shape)
    ((_, matrix),) = pull_rows(network, last, rows, through=False)
    return matrix.reshape(count, -1)


def assert_same(model: onnx.ModelProto, dims: Dims = DIMS) -> None:
    expected = by_runtime(model, dims)
    np.testing.assert_allclose(by_steps(model, dims), expected, atol=FLOAT32)
    found = network_bounds(network_of(model, dims))
    norm = np.linalg.norm(expected, 2)
    assert min(found.by_method.values()) >= norm * (1 - FLOAT32)
    assert found.by_method["LipLT"] <= norm * (1 + FLOAT32) + 1e-12


LINEAR: dict[str, tuple[str, dict[str, Any]]] = {
    "Conv, SAME_UPPER": (
        'a = Conv<strides=[2,3], auto_pad="SAME_UPPER">(x, W)',
        {"W": drawn(3, 4, 2, 3)},
    ),
    "Conv, SAME_LOWER": ('a = Conv<auto_pad="SAME_LOWER">(x, W)', {"W": drawn(3, 4, 2, 2)}),
    "Conv, VALID": (
        'a = Conv<dilations=[2,1], auto_pad="VALID">(x, W, B)',
        {"W": drawn(3, 4, 2, 2), "B": drawn(3)},
    ),
    "Conv, depthwise": (
        "a = Conv<group=4, pads=[1,2,0,1], strides=[2,3]>(x, W)",
        {"W": drawn(8, 1, 3, 2)},
    ),
    "Conv, one dimension": (
        "r = Reshape(x, S) a = Conv<pads=[2,1], strides=[2], dilations=[3]>(r, W)",
        {"W": drawn(3, 4, 3), "S": np.array([0, 0, -1])},
    ),
    "Split": ("b, c = Split<axis=1, num_outputs=2>(x) a = Sub(b, c)", {}),
    "Split, uneven": (
        "b, c, d = Split<axis=2>(x, P) a = Concat<axis=-2>(c, b)",
        {"P": np.array([1, 3, 1])},
    ),
    "Gather": ("a = Gather<axis=1>(x, I)", {"I": np.array([3, 0, 0, -1])}),
    "Gather, matrix": ("a = Gather<axis=-1>(x, I)", {"I": np.array([[3, 0], [0, -1]])}),
    "Gather, scalar": ("a = Gather<axis=2>(x, I)", {"I": np.array(-2)}),
    "Slice, backwards": (
        "a = Slice(x, B, E, A, S)",
        {
            "B": np.array([0, 5]),
            "E": np.array([9, -9]),
            "A": np.array([2, 3]),
            "S": np.array([2, -2]),
        },
    ),
    "Slice, with steps": (
        "a = Slice(x, B, E, A, S)",
        {
            "B": np.array([1, -5]),
            "E": np.array([2**31, -1]),
            "A": np.array([2, 3]),
            "S": np.array([2, 3]),
        },
    ),
    "Slice, channels backwards": (
        "a = Slice(x, B, E, A, S)",
        {
            "B": np.array([-1]),
            "E": np.array([-(2**62)]),
            "A": np.array([1]),
            "S": np.array([-1]),
        },
    ),
    "Pad": ("a = Pad(x, P)", {"P": np.array([0, 0, 1, 2, 0, 0, 2, 1])}),
    "Pad, cropping": ("a = Pad(x, P)", {"P": np.array([0, 0, -1, 2, 0, 0, 1, -1])}),
    "Pad, reflect": (
        'a = Pad<mode="reflect">(x, P)',
        {"P": np.array([0, 0, 1, 2, 0, 0, 2, 1])},
    ),
    "Pad, edge": ('a = Pad<mode="edge">(x, P)', {"P": np.array([0, 0, 1, 2, 0, 0, 2, 1])}),
    "Pad, channels": ("a = Pad(x, P)", {"P": np.array([0, 1, 0, 0, 0, 2, 0, 0])}),
    "Pad, some axes": (
        "a = Pad(x, P, V, A)",
        {"P": np.array([1, 0, 2, 1]), "V": 3.0, "A": np.array([-1, 2])},
    ),
    "DepthToSpace": ("a = DepthToSpace<blocksize=2>(x)", {}),
    "DepthToSpace, CRD": ('a = DepthToSpace<blocksize=2, mode="CRD">(x)', {}),
    "channels last": (
        "t = Transpose<perm=[0,2,3,1]>(x) m = MatMul(t, W) u = Transpose<perm=[0,3,1,2]>(m) "
        "a = Conv(u, K)",
        {"W": drawn(4, 3), "K": drawn(2, 3, 2, 2)},
    ),
    "MatMul, left": ("a = MatMul(W, x)", {"W": drawn(7, 5)}),
    "MatMul, in a batch of one": ("a = MatMul(x, W)", {"W": drawn(1, 1, 6, 3)}),
    "MatMul, in more dimensions": ("a = MatMul(x, W)", {"W": drawn(1, 1, 1, 6, 2)}),
    "MatMul, vector": ("a = MatMul(x, W)", {"W": drawn(6)}),
    "MatMul, vector, left": ("a = MatMul(W, x)", {"W": drawn(5)}),
    "Gemm": (
        "f = Flatten(x) a = Gemm<alpha=-0.5, beta=2.0, transB=1>(f, W, B)",
        {"W": drawn(3, 120), "B": drawn(3)},
    ),
    "Gemm, plain": ("f = Flatten(x) a = Gemm(f, W)", {"W": drawn(120, 3)}),
    "BatchNormalization": (
        "a = BatchNormalization<epsilon=0.1>(x, G, B, M, V)",
        {"G": drawn(4), "B": drawn(4), "M": drawn(4), "V": np.abs(drawn(4))},
    ),
    "ReduceMean": ("a = ReduceMean<keepdims=0>(x, A)", {"A": np.array([1, -1])}),
    "ReduceSum": ("a = ReduceSum(x, A)", {"A": np.array([2])}),
    "ReduceSum, of nothing": ("a = ReduceSum<noop_with_empty_axes=1>(x)", {}),
    "GlobalAveragePool": ("a = GlobalAveragePool(x)", {}),
    "Concat, with constants": (
        "b = Neg(x) a = Concat<axis=1>(C, x, C, b)",
        {"C": drawn(1, 2, 5, 6)},
    ),
    "Concat, of one part": ("a = Concat<axis=3>(x, C)", {"C": drawn(1, 4, 5, 1)}),
    "arithmetic": (
        "a1 = Sub(C, x) a2 = Div(a1, D) a3 = Mul(M, a2) a4 = Neg(a3) a = Mean(a4, x, C)",
        {"C": drawn(4, 1, 1), "D": drawn(5, 1) + 5, "M": drawn(1, 4, 5, 6)},
    ),
    "Expand and Tile": (
        "b = GlobalAveragePool(x) c = Expand(b, S) a = Tile(c, T)",
        {"S": np.array([1, 4, 2, 3]), "T": np.array([1, 1, 2, 1])},
    ),
    "broadcast": (
        "q = Unsqueeze(x, A) a = Add(q, Z)",
        {"A": np.array([1]), "Z": drawn(3, 1, 1, 1)},
    ),
    "one tensor, often": (
        "b = Add(x, x) c = Concat<axis=1>(b, x, x) d = Sub(c, c) a = Add(d, c)",
        {},
    ),
    "Dropout and Identity": ("b = Dropout(x) a = Identity(b)", {}),
    "heights and widths exchanged": (
        "b = Conv<pads=[0,1,0,1]>(x, W) t = Transpose<perm=[0,1,3,2]>(b) "
        "a = Conv<pads=[1,0,1,0]>(t, K)",
        {"W": drawn(2, 4, 1, 3), "K": drawn(2, 2, 3, 1)},
    ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operator_is_what_is_computed(name: str) -> None:
    body, arrays = LINEAR[name]
    assert_same(build(f"{body} y = Flatten(a)", DIMS, **arrays))


PADS = ((0, 0, 0, 0), (1, 1, 1, 1), (1, 0, 0, 1), (0, 1, 1, 0))


@pytest.mark.parametrize("opset", [17, 19, 21])
@pytest.mark.parametrize("pads", PADS)
def test_average_pooling_is_what_is_computed(pads: tuple[int, ...], opset: int) -> None:
    ways = itertools.product(((2, 1), (3, 2), (2, 3)), (1, 2), (0, 1), (0, 1))
    for (k, stride), dilation, ceil, counted in ways:
        if dilation > 1 and (opset < 19 or ceil):
            continue
        apart = f", dilations=[{dilation},{dilation}]" if dilation > 1 else ""
        model = build(
            f"a = AveragePool<kernel_shape=[{k},{k}], strides=[{stride},{stride}], "
            f"pads={list(pads)}, ceil_mode={ceil}, count_include_pad={counted}{apart}>(x) "
            "y = Flatten(a)",
            (1, 6, 5),
            opset,
        )
        np.testing.assert_allclose(
            by_steps(model, (1, 6, 5)), by_runtime(model, (1, 6, 5)), atol=1e-6
        )


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("counted", [0, 1])
def test_average_pooling_that_pads_by_itself(auto: str, counted: int) -> None:
    for k, stride in ((2, 1), (3, 2), (2, 3)):
        model = build(
            f"a = AveragePool<kernel_shape=[{k},{k}], strides=[{stride},{stride}], "
            f'auto_pad="{auto}", count_include_pad={counted}>(x) y = Flatten(a)',
            (1, 6, 7),
        )
        np.testing.assert_allclose(
            by_steps(model, (1, 6, 7)), by_runtime(model, (1, 6, 7)), atol=1e-6
        )


@pytest.mark.parametrize(
    "attributes",
    [
        "strides=[2,2]",
        "strides=[2,1], pads=[1,1,0,1], output_padding=[1,0]",
        "group=2, dilations=[2,1]",
    ],
)
def test_transposed_convolution_has_the_norm_of_its_adjoint(attributes: str) -> None:
    model = build(
        f"a = ConvTranspose<{attributes}>(x, W) y = Flatten(a)", DIMS, W=drawn(4, 2, 3, 3)
    )
    exact = np.linalg.norm(by_runtime(model, DIMS), 2)
    assert exact <= bounds_of(model, DIMS).whole <= 1.4 * exact


def test_planted_difference_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    body, arrays = LINEAR["ReduceMean"]
    model = build(f"{body} y = Flatten(a)", DIMS, **arrays)
    monkeypatch.setattr("lipcompile.certifying.lipschitz.maps.Reduce.pull", _twice)
    with pytest.raises(AssertionError):
        assert_same(model)


def _twice(self: Any, rows: np.ndarray) -> np.ndarray:
    kept = tuple(1 if i in self.axes else n for i, n in enumerate(self.in_shape))
    spread = 2 * rows.reshape(len(rows), *kept) * self.factor
    return np.broadcast_to(spread, (len(rows), *self.in_shape))


@pytest.mark.parametrize(
    ("windows", "steep"),
    [
        ("kernel_shape=[2,2], strides=[2,2]", 1),
        ("kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]", 2),
        ("kernel_shape=[3,3], strides=[1,1]", 3),
        ("kernel_shape=[2,1], strides=[2,1], dilations=[3,1]", 1),
        ("kernel_shape=[2,1], strides=[2,1], dilations=[2,1]", 2**0.5),
        ("kernel_shape=[3,3], strides=[2,2], ceil_mode=1", 2),
    ],
)
def test_overlapping_windows_of_a_maximum(windows: str, steep: float) -> None:
    """One element that is larger than all others, or not, changes as many windows."""
    dims = (1, 9, 8)
    model = build(f"a = MaxPool<{windows}>(x) y = Flatten(a)", dims)
    session = open_session(model.SerializeToString(), RuntimeOptions(threads=1), None)
    basis = np.eye(72, dtype=np.float32).reshape(72, 1, *dims)
    zero = session.run(["y"], {"x": np.zeros((1, *dims), np.float32)})["y"]
    changes = [np.linalg.norm(session.run(["y"], {"x": x})["y"] - zero) for x in basis]
    assert max(changes) == pytest.approx(steep)
    assert bounds_of(model, dims).whole == pytest.approx(steep, rel=1e-6)


TRUE, AXES = np.array(True), np.array([0])
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "Dropout that trains": ("a = Dropout(x, H, T)", {"H": 0.5, "T": TRUE}, "at random"),
    "NaN": ("a = Conv(x, W)", {"W": np.full((1, 4, 1, 1), np.nan)}, "NaN or infinity"),
    "infinity": ("a = Conv(x, W)", {"W": np.full((1, 4, 1, 1), np.inf)}, "NaN or infinity"),
    "NaN in a matrix": (
        "f = Flatten(x) a = Gemm<transB=1>(f, W)",
        {"W": np.full((2, 120), np.nan)},
        "NaN or infinity",
    ),
    "a factor of infinity": ("a = Mul(x, I)", {"I": np.float32(np.inf)}, "infinity"),
    "division by zero": ("a = Div(x, Z)", {"Z": np.zeros((5, 6))}, "by zero"),
    "limits from a pixel": (
        "g = GlobalMaxPool(x) s = Slice(g, B, E, A) q = Squeeze(s) c = Clip(x, Z, q) "
        "a = Sub(x, c)",
        {"B": np.array([0]), "E": np.array([1]), "A": np.array([1]), "Z": np.float32(-1)},
        "takes its operand 2 from the image",
    ),
    "a value to pad with from the image": (
        "g = GlobalMaxPool(x) s = Slice(g, B, E, A) q = Squeeze(s) a = Pad(x, P, q)",
        {
            "B": np.array([0]),
            "E": np.array([1]),
            "A": np.array([1]),
            "P": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        },
        "takes its operand 2 from the image",
    ),
    "a size from the image": (
        "g = GlobalMaxPool(x) s = Slice(g, B, E, A) c = Cast<to=7>(s) d = Abs(c) "
        "r = Reshape(d, M) w = Concat<axis=0>(O, O, r) f = Reshape(x, F) e = Expand(f, w) "
        "a = ReduceSum<keepdims=0>(e, T)",
        {
            "B": np.array([0]),
            "E": np.array([1]),
            "A": np.array([1]),
            "M": np.array([-1]),
            "O": np.array([1]),
            "F": np.array([1, -1, 1]),
            "T": np.array([2]),
        },
        "takes its operand 1 from the image",
    ),
    "a count of what is positive": (
        "r = Greater(x, Z) n = NonZero(r) s = Size(n) f = Cast<to=1>(s) a = Mul(x, f)",
        {"Z": 0.0},
        r"node 'r' \(Greater\) gives bool|'n' \(NonZero\)",
    ),
    "random factors": (
        "r = RandomUniform<shape=[1,4,1,1]>() a = Mul(x, r)",
        {},
        r"'r' \(RandomUniform\) draws random numbers",
    ),
    "random noise like the image": ("r = RandomNormalLike(x) a = Add(x, r)", {}, "RandomNorm"),
    "random noise of the image's shape": (
        "s = Shape(x) z = ConstantOfShape(s) r = RandomNormalLike(z) a = Add(x, r)",
        {},
        "draws random numbers",
    ),
    "Bernoulli": ("a = Bernoulli(x)", {}, "Bernoulli"),
    "sums over images": ("a = ReduceSum(x, A)", {"A": AXES}, "over the images of a batch"),
    "maxima over images": ("a = ReduceMax(x, A)", {"A": AXES}, "over the images of a batch"),
    "sums over everything": ("b = ReduceSum(x) a = Add(x, b)", {}, "over the images"),
    "attention": (
        "t = Transpose<perm=[0,1,3,2]>(x) a = MatMul(x, t)",
        {},
        "multiplies two activations, as attention does",
    ),
    "attention, Gemm": ("f = Flatten(x) a = Gemm<transB=1>(f, f)", {}, "as attention does"),
    "squeeze and excitation": (
        "g = GlobalAveragePool(x) s = Sigmoid(g) a = Mul(x, s)",
        {},
        "multiplies two activations",
    ),
    "LayerNormalization": (
        "a = LayerNormalization<axis=3>(x, S)",
        {"S": np.ones(6)},
        r"'a' \(LayerNormalization\) is a LayerNormalization, for which no bound is known",
    ),
    "InstanceNormalization": (
        "a = InstanceNormalization(x, S, S)",
        {"S": np.ones(4)},
        "for which no bound is known",
    ),
    "If": (
        "a = If(T) <then_branch = t () => (float[n,4,5,6] u) { u = Relu(x) }, "
        "else_branch = e () => (float[n,4,5,6] v) { v = Neg(x) }>",
        {"T": TRUE},
        r"'a' \(If\) is a If",
    ),
    "an operator of another domain": (
        "a = com.microsoft.QuickGelu(x)",
        {},
        "is a com.microsoft operator",
    ),
    "float16": ("h = Cast<to=10>(x) r = Relu(h) a = Cast<to=1>(r)", {}, "computes in float16"),
    "bfloat16": (
        "h = Cast<to=16>(x) a = Cast<to=1>(h)",
        {},
        "computes in bfloat16",
    ),
    "integers": ("h = Cast<to=6>(x) a = Cast<to=1>(h)", {}, "rounds to int32"),
    "QDQ": (
        "q = QuantizeLinear(x, S, Z) a = DequantizeLinear(q, S, Z)",
        {"S": 0.1, "Z": np.array(0, np.int8)},
        "rounds to int8, as quantised models do, and a step has no finite slope",
    ),
    "a transposed convolution that fits itself": (
        "a = ConvTranspose<output_shape=[9,9], strides=[2,2]>(x, W)",
        {"W": drawn(4, 2, 3, 3)},
        "output_shape",
    ),
    "a matrix per part": (
        "a = MatMul(x, W)",
        {"W": drawn(4, 6, 2)},
        "another matrix for each",
    ),
    "Gemm from the right": (
        "f = Flatten(x) a = Gemm<transA=1>(f, W)",
        {"W": drawn(1, 3)},
        "from the right",
    ),
    "Pad, wrap": (
        'a = Pad<mode="wrap">(x, P)',
        {"P": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
        "wrap",
    ),
    "Resize": ("a = Resize(x, , S)", {"S": np.array([1, 1, 2, 2], np.float32)}, "is a Resize"),
    "LogSoftmax inside": ("l = LogSoftmax<axis=1>(x) a = Neg(l)", {}, "LogSoftmax"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_bound_is_refused_by_name(name: str) -> None:
    body, arrays, reason = REFUSED[name]
    model = build(f"{body} y = Flatten(a)", DIMS, **arrays)
    with pytest.raises(ModelError, match=reason) as error:
        bounds_of(model, DIMS)
    assert "node '" in str(error.value)
    assert "--method smoothing" in str(error.value)


def test_channels_that_are_shifted_are_not_taken_for_themselves() -> None:
    """As many are added in front as are taken away behind."""
    arrays = {"P": np.array([1, -1]), "V": 0.0, "A": np.array([1])}
    with pytest.raises(ModelError, match=r"'a' \(Pad\) pads in a way"):
        bounds_of(build("a = Pad(x, P, V, A) y = Flatten(a)", DIMS, **arrays), DIMS)


def test_gate_of_a_tensor_that_is_spread() -> None:
    model = build(
        "w = Mul(x, M) g = Sigmoid(w) a = Mul(x, g) y = Flatten(a)",
        (1, 2, 2),
        M=np.ones((9, 1, 1)),
    )
    network = network_of(model, (1, 2, 2))
    assert network.steps[-1].shape == (1, 36)
    assert bounds_of(model, (1, 2, 2)).whole == pytest.approx(3 * 1.0998, rel=1e-2)


@pytest.mark.parametrize("scale", [1e-26, 1e-18, 1e18, 1e26])
def test_scales_that_cancel(scale: float) -> None:
    """Gram matrices of tiny weights are no zeros, and those of huge ones not infinite."""
    weight = drawn(3, 4, 3, 3)
    body = "b = Conv(x, W) c = Mul(b, S) r = Relu(c) y = Flatten(r)"
    plain = bounds_of(build(body, DIMS, W=weight, S=1.0), DIMS)
    scaled = bounds_of(build(body, DIMS, W=weight * scale, S=1 / scale), DIMS)
    for method, value in plain.by_method.items():
        assert scaled.by_method[method] == pytest.approx(value, rel=1e-6)


def test_bound_that_is_no_finite_number_is_refused() -> None:
    body = " ".join(f"a{i} = Mul(a{i - 1}, S)" for i in range(1, 12))
    model = build(f"a0 = Relu(x) {body} y = Flatten(a11)", DIMS, S=np.float32(1e38))
    with pytest.raises(ModelError, match="no finite number: check the weights"):
        bounds_of(model, DIMS)


def test_images_of_one_batch_may_depend_on_each_other() -> None:
    model = build("y = Flatten(x)", DIMS, batch="4")
    with pytest.raises(ModelError, match="takes 4 images at once"):
        bounds_of(model, DIMS)


@pytest.mark.parametrize("end", ["Softmax", "LogSoftmax"])
def test_last_softmax_is_left_out(end: str) -> None:
    body, weight = "f = Flatten(x) a = Gemm<transB=1>(f, W)", drawn(3, 120)
    with_end = build(f"{body} y = {end}(a)", DIMS, W=weight)
    without = build(f"{body} y = Identity(a)", DIMS, W=weight)
    assert bounds_of(with_end, DIMS).whole == bounds_of(without, DIMS).whole


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("flat", [False, True])
def test_normalisation_is_part_of_the_classifier(layout: str, flat: bool) -> None:
    """Pixels of channel i are divided by std[i]: the bound is that of the steepest channel."""
    dims = (3, 4, 5)
    shape = (60,) if flat else None
    seen = "60" if flat else ("3,4,5" if layout == "NCHW" else "4,5,3")
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> '
        f"g (float[n,{seen}] x) => (float[n,60] y) {{ y = Flatten(x) }}"
    )
    normalisation = Normalisation(
        255.0, (1.0, 2.0, 3.0), (0.5, 2.0, 0.25), layout, swaps_channels=True, shape=shape
    )
    found = lipschitz_bounds(model_io.load(proto), normalisation, dims)
    assert found.whole == pytest.approx(255 / 0.25, rel=1e-7)
    rng = np.random.default_rng(0)
    a, b = rng.uniform(size=(2, 1, *dims)).astype(np.float32)
    steps = (normalisation(a) - normalisation(b)).reshape(-1).astype(float)
    assert (np.abs(steps) <= found.per_logit * np.linalg.norm(a - b)).all()
    # Each logit is one pixel, with the factor of its channel.
    expected = (
        np.repeat([510, 127.5, 1020], 20)
        if layout == "NCHW"
        else np.tile([510, 127.5, 1020], 20)
    )
    np.testing.assert_allclose(found.per_logit, expected, rtol=1e-7)
