"""The taps measure max |x| exactly, and flag every tensor that is not finite."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes  # noqa: F401  (makes NumPy know "bfloat16")
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipcompile import model_io
from lipcompile.passes.tap_absmax import AbsmaxTap, tap_absmax
from lipcompile.sites import Selector, find_sites

KINDS = {"float16": 10, "float32": 1, "float64": 11}
NAMES = {"float16": "float16", "float32": "float", "float64": "double"}
OPSETS = [7, 11, 13, 18]
SIGNED, NONNEGATIVE = "LeakyRelu<alpha = 1.0>", "Relu"


def tapped(
    op: str, dtype: str = "float32", opset: int = 13
) -> tuple[ort.InferenceSession, AbsmaxTap]:
    """A session over h = op(x), with the taps of h as outputs."""
    name = NAMES[dtype]
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> '
        f"g ({name}[N,4] x) => ({name}[N,4] y) "
        f"{{ h = {op}(x) w = Cast<to = {KINDS[dtype]}>(W) y = MatMul(h, w) }}"
    )
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "W")
    proto.graph.initializer.append(weight)
    loaded = model_io.load(proto)
    (tap,) = tap_absmax(find_sites(loaded.graph_ir, Selector("all")).sites)
    assert tap.tensor == "h"
    return session_of(loaded, tap), tap


def session_of(loaded: model_io.LoadedModel, tap: AbsmaxTap) -> ort.InferenceSession:
    serialised = model_io.with_extra_outputs(loaded.proto, tap.nodes)
    onnx.checker.check_model(serialised, full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    return ort.InferenceSession(serialised, options, providers=providers)


def measure(subject: tuple[ort.InferenceSession, AbsmaxTap], x: np.ndarray):
    session, tap = subject
    return tap.read(read(session, tap, x))


def read(
    session: ort.InferenceSession, tap: AbsmaxTap, x: np.ndarray
) -> Mapping[str, np.ndarray]:
    return dict(zip(tap.outputs, session.run(list(tap.outputs), {"x": x}), strict=True))


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("op", [SIGNED, NONNEGATIVE])
def test_tap_is_the_largest_magnitude(op: str, opset: int, dtype: str):
    if opset < 16 and (op, dtype) == (SIGNED, "float64"):
        op = "Tanh"  # which is exact in its own type, and has a kernel in float64
    subject = tapped(op, dtype, opset)
    for seed in range(5):
        x = np.random.default_rng(seed).normal(size=(9, 4)).astype(dtype)
        session, tap = subject
        h = np.maximum(x, 0) if op == NONNEGATIVE else x
        absmax, finite = measure(subject, x)
        expected = np.abs(np.tanh(h) if op == "Tanh" else h).max()
        assert absmax == pytest.approx(float(expected), rel=1e-6 if op == "Tanh" else 0)
        assert finite
        assert all(result.shape == () for result in read(session, tap, x).values())


@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_of_either_sign_counts(sign: int):
    x = np.array([[1, -2, 0.5, 0]], np.float32) * sign
    assert measure(tapped(SIGNED), x) == (2.0, True)


def test_dead_site_has_maximum_zero():
    assert measure(tapped(NONNEGATIVE), -np.ones((3, 4), np.float32)) == (0.0, True)


SIZES = [1, 3, 64, 4096]
POSITIONS = {"first": 0, "second": 1, "middle": 0.5, "last": -1}


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", POSITIONS.values(), ids=POSITIONS)
def test_nonfinite_element_is_flagged_wherever_it_is(position, bad: float, dtype: str):
    subject = tapped("Identity", dtype)
    for size in SIZES:
        x = np.random.default_rng(size).normal(size=(size, 4)).astype(dtype) / 16
        index = int(position * x.size) if isinstance(position, float) else position
        x.reshape(-1)[index] = bad
        assert not measure(subject, x)[1], f"{size} rows"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("position", POSITIONS.values(), ids=POSITIONS)
def test_nonfinite_element_is_flagged_at_a_nonnegative_site_too(position, bad: float):
    subject = tapped("Abs")
    for size in SIZES:
        x = np.random.default_rng(size).normal(size=(size, 4)).astype(np.float32)
        index = int(position * x.size) if isinstance(position, float) else position
        x.reshape(-1)[index] = bad
        assert not measure(subject, x)[1], f"{size} rows"


def test_opposite_infinities_are_flagged():
    x = np.array([[np.inf, -np.inf, 1, 2]], np.float32)
    assert not measure(tapped("Identity"), x)[1]


def test_maximum_alone_would_miss_a_nan():
    """The planted failure, and the reason for the sum (onnxruntime issue 10514)."""
    session, tap = tapped("Identity")
    x = np.ones((8, 4), np.float32)
    x[3, 2] = np.nan
    results = read(session, tap, x)
    extremes = [float(value) for name, value in results.items() if "ReduceSum" not in name]
    assert np.isfinite(extremes).all()
    assert not tap.read(results)[1]


@pytest.mark.parametrize(
    ("dtype", "large", "known"), [("float32", 3e38, False), ("float16", 6e4, True)]
)
def test_finite_tensor_whose_sum_overflows_is_suspected(dtype: str, large: float, known: bool):
    """Not in 16 bits, which are summed in float32: else every sample would be a suspect."""
    x = np.full((8, 4), large, dtype)
    absmax, finite = measure(tapped("Identity", dtype), x)
    assert np.isfinite(x).all()
    assert (absmax, finite) == (float(x[0, 0]), known)


def test_nonnegative_site_needs_no_minimum():
    assert [node.op_type for node in tapped("Relu")[1].nodes] == ["ReduceMax", "ReduceSum"]
    operators = ["ReduceMax", "ReduceMin", "ReduceSum"]
    assert [node.op_type for node in tapped("Identity")[1].nodes] == operators


def test_taps_of_several_sites_have_unique_names_and_leave_the_graph_alone():
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13]> g (float[N,4] x) => (float[N,4] y) '
        "{ h = Relu(x) a = MatMul(h, W) b = Relu(a) y = MatMul(b, W) }"
    )
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "W")
    proto.graph.initializer.append(weight)
    loaded = model_io.load(proto)
    taps = tap_absmax(find_sites(loaded.graph_ir, Selector("all")).sites)
    outputs = [name for tap in taps for name in tap.outputs]
    assert [tap.tensor for tap in taps] == ["h", "b"]
    assert len(outputs) == len(set(outputs)) == 4
    assert all(name.startswith("lipcompile/tap/") for name in outputs)
    assert model_io.render(loaded.proto, loaded.graph_ir) == proto


def test_bfloat16_tap_is_declared_in_the_type_of_the_site():
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13]> g (bfloat16[N,4] x) => (bfloat16[N,4] y) '
        "{ h = Relu(x) w = Cast<to = 16>(W) y = MatMul(h, w) }"
    )
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "W")
    proto.graph.initializer.append(weight)
    loaded = model_io.load(proto)
    (tap,) = tap_absmax(find_sites(loaded.graph_ir, Selector("all")).sites)
    serialised = model_io.with_extra_outputs(loaded.proto, tap.nodes)
    onnx.checker.check_model(serialised, full_check=True)


FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
SESSION = tapped("Identity")


@given(st.lists(FLOATS, min_size=4, max_size=40).filter(lambda v: len(v) % 4 == 0))
@settings(deadline=None)
def test_reading_is_exact_or_flagged(values: list[float]):
    x = np.array(values, np.float32).reshape(-1, 4)
    absmax, finite = measure(SESSION, x)
    if finite:
        assert np.isfinite(x).all()
        assert absmax == np.abs(x).max()


def pooled(width: int = 16) -> tuple[ort.InferenceSession, AbsmaxTap]:
    """Taps of h = Abs(conv(x)) in front of a convolution, where blocked pools come first."""
    proto = onnx.parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[N, {width}, H, W] x) => (float[N, {width}, H, W] y) {{
            c = Conv (x, K)
            h = Relu (c)
            y = Conv (h, K)
        }}
        """
    )
    kernel = np.eye(width, dtype=np.float32).reshape(width, width, 1, 1)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(kernel, "K"))
    loaded = model_io.load(proto)
    (tap,) = tap_absmax(find_sites(loaded.graph_ir, Selector("all")).sites)
    assert [node.op_type for node in tap.nodes][:2] == ["GlobalMaxPool", "GlobalAveragePool"]
    return session_of(loaded, tap), tap


@pytest.mark.parametrize("width", [3, 16, 48])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (32, 32)])
def test_pooled_taps_are_exact(width: int, shape: tuple[int, int]):
    subject = pooled(width)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(2, width, *shape)).astype(np.float32)
        assert measure(subject, x) == (float(np.maximum(x, 0).max()), True)


@pytest.mark.parametrize("width", [3, 16])
@pytest.mark.parametrize("position", POSITIONS.values(), ids=POSITIONS)
def test_pooled_taps_flag_infinity_wherever_it_is(position, width: int):
    # Zero elsewhere in its pixel, or the identity kernel would make NaN of infinity times 0.
    x = np.zeros((2, width, 9, 9), np.float32)
    index = int(position * 81) if isinstance(position, float) else position
    subject = pooled(width)
    for value, finite in ((3e38, True), (np.inf, False)):
        x[:, 0].reshape(2, -1)[1, index] = value
        assert measure(subject, x)[1] == finite
