"""Laws: every registered form, every dtype, every encoding, through the same checks.

Tolerances, relative to |x|, since a form multiplies x by a gate in [0, 1]:
    float64   1e-6   ONNX Runtime's double Sigmoid, no more than the float32 one promises
    float32   1e-6   its Sigmoid is a rational approximation, 1.6e-7 absolute at worst
    float16   1e-3   one unit in the last place, 2^-10
    bfloat16  8e-3   one unit in the last place, 2^-7
Zero for `hard`, which only compares and copies; and for `soft`, which is one subtraction, so
that every encoding rounds once where the definition does. (Runtimes compute 16-bit types in
float32 and round to 16 bits behind it: the same, since 24 >= 2 * 11 + 2 digits.)
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

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
from lipcompile.forged import (
    FORMS,
    TARGETS,
    Emitter,
    EncodingContext,
    ForgedFunction,
    check_target,
    make_form,
)

TOLERANCE = {"float64": 1e-6, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}
PARAMETERS: dict[str, list[dict[str, float]]] = {
    "smooth": [{}, {"a": 2.0}, {"a": 20.0, "b": 0.5}],
    "hard": [{}],
    "soft": [{}],
}
EXACT = ("hard", "soft")
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
    build = form.encoding(context).build
    assert build is not None
    y = build(emit, x, form.threshold(c, context.dtype))
    y.type, y.shape = kind, ir.Shape(shape)
    graph = ir.Graph([x], [y], nodes=emit.nodes, name="g", opset_imports={"": context.opset})
    model: onnx.ModelProto = ir.to_proto(ir.Model(graph, ir_version=8))
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, x: np.ndarray, optimise: bool = True) -> np.ndarray:
    """ONNX Runtime, or ONNX's reference where its CPU provider has no bfloat16."""
    if x.dtype == ml_dtypes.bfloat16:
        with np.errstate(over="ignore", invalid="ignore"):  # its Sigmoid tries both sides
            return ReferenceEvaluator(model).run(None, {"x": x})[0]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
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
    if form.name in EXACT:
        np.testing.assert_array_equal(y, expected)
        return
    wide = [v.astype(np.float64) for v in (y, expected, x)]
    error = np.abs(wide[0] - wide[1])
    assert (error <= TOLERANCE[x.dtype.name] * np.abs(wide[2])).all()


def contexts(dtype: str, opset: int, c: float) -> list[EncodingContext]:
    """Every site in front of which the encoding is inserted, for every target."""
    return [
        EncodingContext(dtype, opset, nonnegative, channels, target=target, c=c)
        for nonnegative, channels, target in itertools.product(
            (False, True), (None, 16), TARGETS
        )
    ]


@forms
@dtypes
@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 13, 14, 16, 20, 22])
def test_encoding_equals_definition(form: ForgedFunction, dtype: str, opset: int) -> None:
    if dtype == "bfloat16" and opset < 13:
        pytest.skip("ONNX has no bfloat16 arithmetic before opset 13")
    c = 0.0371
    held = form.threshold(c, dtype)
    known = set()
    for context in contexts(dtype, opset, held):
        model = as_model(form, context, c)
        if (key := model.SerializeToString(deterministic=True)) in known:
            continue  # most targets write most sites the same way
        known.add(key)
        if dtype == "bfloat16" and opset < 14 and "BatchNormalization" in str(model):
            continue  # ONNX's reference takes BatchNormalization-9 to be training
        x = activations(dtype, held, context.nonnegative)
        if context.channels is not None:
            rows = 4 * context.channels
            x = x[: len(x) // rows * rows].reshape(2, context.channels, -1, 2)
        try:
            assert_equals_definition(form, run(model, x), x, c)
        except AssertionError as error:
            error.add_note(f"in {context}")
            raise


@pytest.mark.parametrize("name", list(FORMS))
def test_targets_write_differently_what_they_compute_alike(name: str) -> None:
    """Else the law above would test one target several times."""
    labels = {
        make_form(name).encoding(context).label
        for context in contexts("float32", 17, 0.5)
        if context.channels is not None
    }
    assert len(labels) > 1


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_encoding_in_place_of_relu_equals_relu_then_definition(dtype: str) -> None:
    written = set()
    for (name, parameters), target in itertools.product(VARIANTS, TARGETS):
        form = make_form(name, **parameters)
        context = EncodingContext(
            dtype, 13, nonnegative=True, replaceable_relu=True, target=target, c=0.25
        )
        if form.encoding(context).way == "relu":
            x = activations(dtype, form.threshold(0.25, dtype))
            y = run(as_model(form, context, 0.25), x)
            assert_equals_definition(form, y, np.maximum(x, 0), 0.25)
            written.add(name)
    assert written == {"hard"}


def test_hard_takes_the_place_of_a_relu_except_where_that_is_slower() -> None:
    relu = EncodingContext("float32", 13, nonnegative=True, replaceable_relu=True)
    ways = {
        target: make_form("hard").encoding(replace(relu, target=target)).way
        for target in TARGETS
    }
    assert ways.pop("ort-cpu") == "insert"
    assert set(ways.values()) == {"relu"}


def test_soft_behind_a_bias_needs_no_operator() -> None:
    for target in TARGETS:
        context = EncodingContext("float32", 13, shiftable=True, target=target)
        encoding = make_form("soft").encoding(context)
        assert (encoding.way, encoding.build) == ("bias", None)
    assert make_form("soft").encoding(EncodingContext("float32", 13)).way == "insert"


# A step made of HardSigmoid, for ONNX Runtime on the CPU

STEEP = EncodingContext("float32", 17, target="ort-cpu")
CHANNELS = 16


def around(c: float) -> np.ndarray:
    """The numbers next to c on both sides, its powers of two, subnormal and huge ones."""
    low = high = np.float32(c)
    near = [low]
    for _ in range(3):
        low, high = np.nextafter(low, np.float32(0)), np.nextafter(high, np.float32(np.inf))
        near += [low, high]
    limits = np.finfo(np.float32)
    far = [0.0, limits.smallest_subnormal, 1e-40, limits.tiny, limits.max]
    scaled = [float(c) * 2.0**k for k in (-30, -2, -1, 1, 2, 30)]
    with np.errstate(over="ignore", under="ignore"):
        x = np.float32([*near, *far, *scaled, 1.0, 3.0])
    x = x[np.isfinite(x)]
    return np.concatenate([x, -x])


def test_convolution_takes_the_step_into_the_blocked_layout(tmp_path: Path) -> None:
    """Else the check below would say nothing of that layout's kernels."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    context = replace(STEEP, nonnegative=True, c=0.5)
    model = behind_a_relu(as_model(make_form("hard"), context, 0.5))
    providers = ["CPUExecutionProvider"]
    ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    operators = [node.op_type for node in nodes if node.op_type != "Constant"]
    if "com.microsoft.nchwc" not in [node.domain for node in nodes]:
        pytest.skip("no blocked layout on this processor")
    assert operators.index("HardSigmoid") < operators.index("ReorderOutput")


def behind_a_relu(encoding: onnx.ModelProto) -> onnx.ModelProto:
    """The encoding of what a Conv that changes nothing gives, and a Relu."""
    model = onnx.ModelProto()
    model.CopyFrom(encoding)
    shape = [1, CHANNELS, None, 1]
    (x,) = model.graph.input
    x.CopyFrom(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape))
    model.graph.output[0].type.CopyFrom(x.type)
    for node in model.graph.node:
        node.input[:] = ["r" if name == "x" else name for name in node.input]
    weight = np.eye(CHANNELS, dtype=np.float32)[:, :, None, None]
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "k"))
    own = [onnx.helper.make_node("Conv", ["x", "k"], ["z"])]
    own.append(onnx.helper.make_node("Relu", ["z"], ["r"]))
    nodes = [*own, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


thresholds = st.one_of(
    st.integers(-90, 90).map(lambda e: 2.0**e),
    st.integers(-90, 90).map(lambda e: float(np.nextafter(np.float32(2.0**e), np.float32(0)))),
    st.builds(
        math.ldexp, st.integers(2**23, 2**24 - 1).map(float), st.integers(-90 - 23, 90 - 23)
    ),
)


def assert_step(model: onnx.ModelProto, c: float, nonnegative: bool) -> None:
    """Exactly `hard`, optimised or not; but 0 * x may be -0, which is equal."""
    form = make_form("hard")
    x = np.abs(around(c)) if nonnegative else around(c)
    for optimise in (False, True):
        message = f"{c = }, {optimise = }"
        y = run(model, x, optimise)
        np.testing.assert_array_equal(y, form(x, c), err_msg=message)
        padded = np.resize(x, (1, CHANNELS, -(-len(x) // CHANNELS), 1))
        y = run(behind_a_relu(model), padded, optimise)
        expected = form(np.maximum(padded, 0), c)
        np.testing.assert_array_equal(y, expected, err_msg=f"{message}, in blocks")


@given(c=thresholds, nonnegative=st.booleans())
@settings(max_examples=150, deadline=None)
def test_step_is_exact_for_every_threshold(c: float, nonnegative: bool) -> None:
    context = replace(STEEP, nonnegative=nonnegative, c=c)
    model = as_model(make_form("hard"), context, c)
    assert "HardSigmoid" in [node.op_type for node in model.graph.node]
    assert_step(model, c, nonnegative)


@pytest.mark.parametrize("c", [1.0, 0.0371, float(np.nextafter(np.float32(2), np.float32(0)))])
def test_planted_step_of_half_the_slope_is_caught(c: float) -> None:
    model = as_model(make_form("hard"), replace(STEEP, c=c), c)
    (step,) = [node for node in model.graph.node if node.op_type == "HardSigmoid"]
    for attribute in step.attribute:
        attribute.f /= 2
    with pytest.raises(AssertionError, match="not equal"):
        assert_step(model, c, nonnegative=False)


def test_tiny_threshold_has_no_step_since_its_slope_would_overflow() -> None:
    label = make_form("hard").encoding(replace(STEEP, c=2.0**-101)).label
    assert label == "Abs, Greater, Where"


# The checks catch what they are for


def test_planted_wrong_threshold_is_caught() -> None:
    form = make_form("hard")
    x = activations("float32", 0.25)
    wrong = run(as_model(form, EncodingContext("float32", 13), 0.2500001), x)
    with pytest.raises(AssertionError):
        assert_equals_definition(form, wrong, x, 0.25)


def test_planted_rounding_of_soft_is_caught() -> None:
    """Twice rounded: to 16 bits before the subtraction."""
    form, x = make_form("soft"), activations("float32", 0.25)
    context = EncodingContext("float32", 13)
    wrong = run(as_model(form, context, 0.25), x.astype(np.float16).astype(np.float32))
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
    """Off by c at most, which only `soft` is."""
    rng = np.random.default_rng(1)
    x = (rng.uniform(0.01, 100, 1000) * rng.choice([-1, 1], 1000)).astype(dtype)
    c = form.threshold(2**-20, dtype)
    y = form(x, c)
    if form.name != "soft":
        np.testing.assert_array_equal(y, x)
    last_place = np.abs(np.nextafter(x, np.asarray(np.inf, dtype)) - x).astype(np.float64)
    error = np.abs(y.astype(np.float64) - x.astype(np.float64))
    assert (error <= c + last_place).all()


@forms
@dtypes
def test_keeps_shape_and_dtype(form: ForgedFunction, dtype: str) -> None:
    x = activations(dtype, 0.0625)[:24].reshape(2, 3, 4)
    y = form(x, form.threshold(0.0625, dtype))
    assert (y.shape, y.dtype) == (x.shape, x.dtype)


@forms
@dtypes
def test_is_odd_and_grows_with_its_argument(form: ForgedFunction, dtype: str) -> None:
    """What hoisting over a MaxPool rests on."""
    c = form.threshold(0.25, dtype)
    x = np.sort(activations(dtype, c).astype(np.float64)).astype(dtype)
    y = form(x, c)
    assert (np.diff(y.astype(np.float64)) >= 0).all()
    np.testing.assert_array_equal(form(-x, c), -y)


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
    for form in (make_form("smooth"), make_form("soft")):
        x = np.linspace(0, 4, 1_000_001)
        assert np.diff(form(x, 1.0)).max() / (x[1] - x[0]) >= 0.999 * form.slope
    assert make_form("smooth").slope == pytest.approx(3.10, abs=0.01)
    assert make_form("soft").slope == 1.0


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
        ("soft-ish", {}, "form 'soft-ish' is unknown: use smooth, hard, soft"),
        ("hard", {"a": 1.0}, "form 'hard' has no parameter 'a'"),
        ("soft", {"b": 1.0}, "form 'soft' has no parameter 'b'"),
        ("smooth", {"a": 0.0}, "a = 0.0 is out of range"),
        ("smooth", {"a": float("nan")}, "a = nan is out of range"),
        ("smooth", {"b": -1.0}, "b = -1.0 is out of range"),
        ("smooth", {"b": float("inf")}, "b = inf is out of range"),
    ],
)
def test_bad_parameters(name: str, parameters: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_form(name, **parameters)


def test_unknown_target_is_refused() -> None:
    assert [check_target(target) for target in TARGETS] == list(TARGETS)
    with pytest.raises(OptionError, match="target 'tpu' is unknown: use portable, ort-cpu"):
        check_target("tpu")
