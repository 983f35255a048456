"""Laws: every registered form, every dtype, every encoding, through the same checks.

Tolerances, relative to |x|, since a form multiplies x by a gate in [0, 1]:
    float64   1e-6   ONNX Runtime's double Sigmoid, no more than the float32 one promises
    float32   1e-6   its Sigmoid is a rational approximation, 1.6e-7 absolute at worst
    float16   1e-3   one unit in the last place, 2^-10
    bfloat16  8e-3   one unit in the last place, 2^-7
Zero for `hard`, which only compares and copies.
"""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from lipcompile.errors import DataError, OptionError
from lipcompile.forged import FORMS, Emitter, EncodingContext, ForgedFunction, make_form

TOLERANCE = {"float64": 1e-6, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}
PARAMETERS: dict[str, list[dict[str, float]]] = {
    "smooth": [{}, {"a": 2.0}, {"a": 20.0, "b": 0.5}],
    "hard": [{}],
}
VARIANTS = [(name, given) for name in FORMS for given in PARAMETERS[name]]
forms = pytest.mark.parametrize("form", [make_form(n, **p) for n, p in VARIANTS], ids=repr)
dtypes = pytest.mark.parametrize("dtype", list(TOLERANCE))


def activations(dtype: str, c: float, nonnegative: bool = False) -> np.ndarray:
    """Values around the threshold, far beyond it, zeros of both signs, and the threshold."""
    rng = np.random.default_rng(0)
    spread = rng.normal(size=20_000) * np.geomspace(1e-3, 100, 20_000) * c
    above = float(np.nextafter(np.float32(c), np.float32(1)))
    special = np.array([0.0, -0.0, c, -c, above, 2 * c, -0.5 * c, 1000 * c])
    x = np.concatenate([special, spread]).astype(dtype)
    return np.abs(x) if nonnegative else x


def as_model(form: ForgedFunction, context: EncodingContext, c: float) -> onnx.ModelProto:
    """The encoding alone, as a model from x to y, or from what a Relu reads, in its place."""
    kind = ir.TensorType(ir.DataType.from_numpy(np.dtype(context.dtype)))
    shape = ["n"] if context.channels is None else ["n", context.channels, "h", "w"]
    x = ir.Value(name="x", type=kind, shape=ir.Shape(shape))
    emit = Emitter("layer")
    y = form.encoding(context).build(emit, x, form.threshold(c, context.dtype))
    y.type, y.shape = kind, ir.Shape(shape)
    graph = ir.Graph([x], [y], nodes=emit.nodes, name="g", opset_imports={"": context.opset})
    model: onnx.ModelProto = ir.to_proto(ir.Model(graph, ir_version=8))
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """ONNX Runtime, or ONNX's reference where its CPU provider has no bfloat16."""
    if x.dtype == ml_dtypes.bfloat16:
        with np.errstate(over="ignore", invalid="ignore"):  # its Sigmoid tries both sides
            return ReferenceEvaluator(model).run(None, {"x": x})[0]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def assert_equals_definition(
    form: ForgedFunction, y: np.ndarray, x: np.ndarray, c: float
) -> None:
    held = form.threshold(c, x.dtype.name)
    expected = form(x, held)
    assert y.dtype == x.dtype
    if form.name == "hard":
        np.testing.assert_array_equal(y, expected)
        return
    wide = [v.astype(np.float64) for v in (y, expected, x)]
    error = np.abs(wide[0] - wide[1])
    assert (error <= TOLERANCE[x.dtype.name] * np.abs(wide[2])).all()


@forms
@dtypes
@pytest.mark.parametrize("opset", [7, 8, 9, 10, 13, 16, 20, 22])
@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("channels", [None, 16])
def test_encoding_equals_definition(
    form: ForgedFunction, dtype: str, opset: int, nonnegative: bool, channels: int | None
) -> None:
    if dtype == "bfloat16" and opset < 13:
        pytest.skip("ONNX has no bfloat16 arithmetic before opset 13")
    if dtype == "bfloat16" and channels is not None and opset < 14:
        pytest.skip("ONNX's reference takes BatchNormalization-9 to be training")
    context = EncodingContext(dtype, opset, nonnegative, channels)
    c = 0.0371
    x = activations(dtype, form.threshold(c, dtype), nonnegative)
    if channels is not None:
        x = x[: len(x) // (4 * channels) * 4 * channels].reshape(2, channels, -1, 2)
    assert_equals_definition(form, run(as_model(form, context, c), x), x, c)


@forms
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_encoding_in_place_of_relu_equals_relu_then_definition(
    form: ForgedFunction, dtype: str
) -> None:
    context = EncodingContext(dtype, 13, nonnegative=True, replaceable_relu=True)
    encoding = form.encoding(context)
    if not encoding.replaces_relu:
        pytest.skip(f"{form.name} has no such encoding")
    x = activations(dtype, form.threshold(0.25, dtype))
    y = run(as_model(form, context, 0.25), x)
    assert_equals_definition(form, y, np.maximum(x, 0), 0.25)


def test_planted_wrong_threshold_is_caught() -> None:
    form = make_form("hard")
    x = activations("float32", 0.25)
    wrong = run(as_model(form, EncodingContext("float32", 13), 0.2500001), x)
    with pytest.raises(AssertionError):
        assert_equals_definition(form, wrong, x, 0.25)


def test_planted_wrong_gate_is_caught() -> None:
    x = activations("float32", 0.25)
    wrong = run(
        as_model(make_form("smooth", a=10.001), EncodingContext("float32", 13), 0.25), x
    )
    with pytest.raises(AssertionError):
        assert_equals_definition(make_form("smooth"), wrong, x, 0.25)


@forms
@dtypes
def test_shrinks(form: ForgedFunction, dtype: str) -> None:
    """|f(x)| <= |x|, and the sign stays."""
    x = activations(dtype, 0.0625)
    y = form(x, form.threshold(0.0625, dtype))
    assert (np.abs(y) <= np.abs(x)).all()
    assert (np.sign(y) * np.sign(x) >= 0).all()


@forms
@dtypes
def test_becomes_identity_as_c_goes_to_0(form: ForgedFunction, dtype: str) -> None:
    rng = np.random.default_rng(1)
    x = (rng.uniform(0.01, 100, 1000) * rng.choice([-1, 1], 1000)).astype(dtype)
    c = form.threshold(2**-20, dtype)
    np.testing.assert_array_equal(form(x, c), x)


@forms
@given(c=st.floats(1e-3, 1e3), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_measured_slope_is_at_most_the_stated_one(
    form: ForgedFunction, c: float, seed: int
) -> None:
    if math.isinf(form.slope):
        pytest.skip(f"{form.name} states no finite slope")
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(-4 * c, 4 * c, 50_000))
    x = x[np.concatenate([[True], np.diff(x) > 1e-7 * c])]
    slopes = np.abs(np.diff(form(x, c)) / np.diff(x))
    assert slopes.max() <= form.slope + 1e-6


def test_stated_slope_is_reached() -> None:
    """Not merely a bound: a grid finds 99.9 % of it."""
    form = make_form("smooth")
    x = np.linspace(0, 4, 1_000_001)
    assert np.diff(form(x, 1.0)).max() / (x[1] - x[0]) >= 0.999 * form.slope
    assert form.slope == pytest.approx(3.10, abs=0.01)


def test_hard_jumps_by_c_so_its_slope_is_infinite() -> None:
    form = make_form("hard")
    x = np.array([1.0, np.nextafter(1.0, 2.0)])
    assert np.ptp(form(x, 1.0)) == pytest.approx(1.0)
    assert math.isinf(form.slope)


@forms
def test_threshold_that_vanishes_in_the_type_is_refused(form: ForgedFunction) -> None:
    with pytest.raises(DataError, match="raise --cr, or leave the layer out with --exclude"):
        form.threshold(1e-60, "float32")


@pytest.mark.parametrize("name", list(FORMS))
def test_every_form_has_variants_here_and_names_itself(name: str) -> None:
    assert PARAMETERS[name]
    assert make_form(name).name == name


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("soft-ish", {}, "form 'soft-ish' is unknown: use smooth or hard"),
        ("hard", {"a": 1.0}, "form 'hard' has no parameter 'a'"),
        ("smooth", {"a": 0.0}, "a = 0.0 is out of range"),
        ("smooth", {"a": float("nan")}, "a = nan is out of range"),
        ("smooth", {"b": -1.0}, "b = -1.0 is out of range"),
        ("smooth", {"b": float("inf")}, "b = inf is out of range"),
    ],
)
def test_bad_parameters(name: str, parameters: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_form(name, **parameters)
