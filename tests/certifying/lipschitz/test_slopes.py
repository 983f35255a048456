"""Every stated slope against difference quotients, in float64 on a dense grid.

The functions are computed by ONNX's reference evaluator, or by the formula beside them: not by
what states their slopes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from lipcompile.certifying.lipschitz.network import Step
from lipcompile.certifying.lipschitz.operators.activations import _SLOPES
from lipcompile.errors import ModelError
from lipcompile.forged import (
    FORMS,
    TARGETS,
    Emitter,
    EncodingContext,
    ForgedFunction,
    make_form,
)
from tests.certifying.lipschitz.measuring import build, network_of

DIMS = (1, 1, 1)
# Around zero in steps of 1e-3, and far away.
_FAR = np.geomspace(12, 300, 100)  # farther away, exp overflows
GRID = np.unique(np.concatenate([np.linspace(-12, 12, 24_001), _FAR, -_FAR]))
ROUNDING = 1e-9  # of quotients over 1e-3 of values of about 10
CLOSE = 0.02  # how far limits may be from what is measured, relative to the steepest


def slope_of(model: onnx.ModelProto) -> Step:
    """The one activation."""
    network = network_of(model, DIMS)
    (index,) = network.activations
    return network.steps[index]


def quotients(model: onnx.ModelProto, x: np.ndarray = GRID) -> np.ndarray:
    """Of neighbours on the grid: every other quotient is a mean of those."""
    wide = as_double(model)
    with np.errstate(over="ignore"):  # on the side of Elu and others that is not chosen
        results = ReferenceEvaluator(wide).run(None, {"x": x.reshape(-1, *DIMS)})
    y = results[0].reshape(-1)
    slopes: np.ndarray = np.diff(y.astype(np.float64)) / np.diff(x)
    return slopes


def as_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in float64: constants hold the same float32 numbers."""
    graph = ir.from_proto(model)
    double = ir.DataType.DOUBLE
    for value in [*graph.graph.inputs, *graph.graph.outputs]:
        value.dtype = double
    for value in graph.graph.initializers.values():
        array = value.const_value.numpy() if value.const_value is not None else None
        if array is not None and array.dtype == np.float32:
            value.const_value = ir.tensor(array.astype(np.float64), name=value.name)
            value.dtype = double
    for node in graph.graph:
        held = node.attributes.get("value")
        if node.op_type == "Constant" and held is not None:
            wide = ir.tensor(held.as_tensor().numpy().astype(np.float64))
            node.attributes["value"] = ir.AttrTensor("value", wide)
    result: onnx.ModelProto = ir.to_proto(graph)
    return result


def assert_within(step: Step, measured: np.ndarray, *, is_limit: bool = True) -> None:
    slack = ROUNDING * max(1.0, step.steepest)
    assert step.low - slack <= measured.min()
    assert measured.max() <= step.high + slack
    if is_limit:
        near = CLOSE * step.steepest
        assert measured.min() - step.low <= near
        assert step.high - measured.max() <= near


ONE = {
    **{name: f"a = {name}(x)" for name in _SLOPES if name not in ("Clip", "Swish")},
    "Clip": "a = Clip(x, MINUS, TWO)",
    "Gelu by tanh": 'a = Gelu<approximate="tanh">(x)',
    "LeakyRelu": "a = LeakyRelu(x)",
    "LeakyRelu, steep": "a = LeakyRelu<alpha=3.0>(x)",
    "LeakyRelu, falling": "a = LeakyRelu<alpha=-0.7>(x)",
    "Elu": "a = Elu(x)",
    "Elu, steep": "a = Elu<alpha=2.5>(x)",
    "Elu, falling": "a = Elu<alpha=-0.5>(x)",
    "Celu": "a = Celu<alpha=0.3>(x)",
    "Selu": "a = Selu(x)",
    "Selu, other": "a = Selu<alpha=0.4, gamma=2.0>(x)",
    "HardSigmoid": "a = HardSigmoid(x)",
    "HardSigmoid, falling": "a = HardSigmoid<alpha=-1.5, beta=0.2>(x)",
    "PRelu": "a = PRelu(x, MINUS)",
    "PRelu, steep": "a = PRelu(x, TWO)",
    "ThresholdedRelu": "a = ThresholdedRelu<alpha=0.0>(x)",
    "Shrink": "a = Shrink<lambd=0.7, bias=0.7>(x)",
    "Max": "a = Max(x, MINUS)",
    "Min": "a = Min(TWO, x)",
    "Max of multiples": "m = Mul(x, HALF) n = Add(m, TWO) a = Max(x, n)",
    "Min of multiples": "m = Mul(x, MINUS) a = Min(m, x, TWO)",
    "soft, Clip-Sub": "m = Clip(x, MINUS, TWO) a = Sub(x, m)",
    "SiLU": "s = Sigmoid(x) a = Mul(x, s)",
    "SiLU, from the other side": "s = Sigmoid(x) a = Mul(s, x)",
    "SiLU, twice as steep": "m = Mul(TWO, x) s = Sigmoid(m) a = Mul(x, s)",
    "SiLU, falling": "m = Mul(MINUS, x) s = Sigmoid(m) a = Mul(x, s)",
    "SiLU, of a multiple": "m = Mul(MINUS, x) s = Sigmoid(m) a = Mul(m, s)",
    "SiLU, shifted": "m = Add(x, SIX) s = Sigmoid(m) a = Mul(x, s)",
    "SiLU, shifted back": "m = Sub(x, SIX) s = Sigmoid(m) a = Mul(x, s)",
    "a gate of the magnitude": "b = Abs(x) m = Sub(b, SIX) s = Sigmoid(m) a = Mul(x, s)",
    "a gate that closes": (
        "b = Abs(x) n = Mul(MINUS, b) m = Add(n, SIX) s = Sigmoid(m) a = Mul(x, s)"
    ),
    "HardSwish, Clip": (
        "m = Add(x, THREE) c = Clip(m, ZERO, SIX) p = Mul(x, c) a = Div(p, SIX)"
    ),
    "HardSwish, HardSigmoid": "s = HardSigmoid<alpha=0.16666667, beta=0.5>(x) a = Mul(x, s)",
    "GELU, Erf": (
        "d = Div(x, ROOT) e = Erf(d) o = Add(e, UNIT) p = Mul(x, o) a = Mul(p, HALF)"
    ),
    "GELU, Erf, half first": ("d = Mul(x, HALF) e = Erf(x) o = Add(UNIT, e) a = Mul(d, o)"),
}
# Gates whose limits are not claimed to be reached.
LOOSE = {
    "a ramp of the magnitude": (
        "b = Abs(x) s = HardSigmoid<alpha=0.5, beta=-1.0>(b) a = Mul(x, s)"
    ),
    "a ramp that closes": "b = Abs(x) s = HardSigmoid<alpha=-0.5, beta=2.0>(b) a = Mul(x, s)",
    "a ramp, far away": "s = HardSigmoid<alpha=0.5, beta=5.0>(x) a = Mul(x, s)",
    "a ramp of a limited gate": (
        "m = Mul(x, MINUS) c = Clip(m, ZERO, HALF) n = Mul(TWO, x) a = Mul(c, n)"
    ),
    "a ramp of the magnitude, by Clip": (
        "b = Abs(x) m = Sub(b, UNIT) c = Clip(m, ZERO, UNIT) a = Mul(c, x)"
    ),
}
CONSTANTS = {
    "MINUS": -0.5,
    "ZERO": 0.0,
    "HALF": 0.5,
    "UNIT": 1.0,
    "TWO": 2.0,
    "THREE": 3.0,
    "SIX": 6.0,
    "ROOT": 2**0.5,
}


def one(body: str) -> onnx.ModelProto:
    arrays = {name: np.float32(value) for name, value in CONSTANTS.items() if name in body}
    return build(f"{body} y = Flatten(a)", DIMS, opset=22, **arrays)


@pytest.mark.parametrize("name", [*ONE, *LOOSE])
def test_slopes_are_never_left(name: str) -> None:
    model = one((ONE | LOOSE)[name])
    network = network_of(model, DIMS)
    assert len(network.activations) == 1
    # Factors that stand around a gate are steps of their own.
    factor = np.prod(
        [
            float(step.map.pull(np.ones((1, *step.shape))).reshape(-1)[0])
            for step in network.steps
            if step.kind == "linear" and step.map is not None
        ]
    )
    step = slope_of(model)
    low, high = sorted((factor * step.low, factor * step.high))
    assert_within(replace(step, low=low, high=high), quotients(model), is_limit=name in ONE)


@pytest.mark.parametrize("shift", [-0.05, 0.05])
def test_planted_slope_is_caught(shift: float) -> None:
    step = slope_of(one(ONE["SiLU"]))
    measured = quotients(one(ONE["SiLU"]))
    for wrong in (replace(step, low=step.low + shift), replace(step, high=step.high + shift)):
        with pytest.raises(AssertionError):
            assert_within(wrong, measured)


def test_softmax_of_the_worst_point_comes_close_to_its_slope() -> None:
    """Two classes that share all: half of what they are apart, times sqrt(2) / sqrt(2)."""
    p = np.array([0.5, 0.5, 0.0])
    jacobian = np.diag(p) - np.outer(p, p)
    assert np.linalg.norm(jacobian, 2) == pytest.approx(0.5)
    model = build("s = Softmax<axis=1>(x) r = Neg(s) y = Flatten(r)", (3, 1, 1))
    network = network_of(model, (3, 1, 1))
    (step,) = (network.steps[i] for i in network.activations)
    assert (step.low, step.high, step.pointwise) == (-0.5, 0.5, False)


JUMPS = {
    "Celu, growing": "a = Celu<alpha=-1.0>(x)",
    "ThresholdedRelu, above": "a = ThresholdedRelu<alpha=0.5>(x)",
    "ThresholdedRelu, below": "a = ThresholdedRelu<alpha=-0.5>(x)",
    "Shrink, hard": "a = Shrink<lambd=0.5, bias=0.0>(x)",
    "Shrink, below": "a = Shrink<lambd=-0.5, bias=-0.5>(x)",
    "a product with itself": "a = Mul(x, x)",
    "a gate of something else": "b = Abs(x) c = Tanh(x) s = Sigmoid(c) a = Mul(x, s)",
    "a gate without a bound below": "c = Min(x, SIX) a = Mul(x, c)",
    "a gate without a bound above": "c = Clip(x, ZERO) a = Mul(x, c)",
    "a gate of a shifted value": "m = Add(x, TWO) s = Sigmoid(x) a = Mul(m, s)",
    "a magnitude times a gate": "b = Abs(x) s = Sigmoid(x) a = Mul(b, s)",
    "a step by a steep ramp": "s = HardSigmoid<alpha=1e6, beta=-1e5>(x) a = Mul(x, s)",
    "GELU, shifted": "m = Add(x, TWO) e = Erf(m) o = Add(e, UNIT) a = Mul(x, o)",
    "GELU, too high": "e = Erf(x) o = Add(e, TWO) a = Mul(x, o)",
    "a quotient": "b = Abs(x) c = Add(b, UNIT) a = Div(x, c)",
    "Where": "g = Greater(x, ZERO) a = Where(g, x, ZERO)",
    "Greater and Mul": "g = Greater(x, ZERO) c = Cast<to=1>(g) a = Mul(x, c)",
    "Sign": "a = Sign(x)",
    "Round": "a = Round(x)",
    "Exp": "a = Exp(x)",
    "Pow": "a = Pow(x, TWO)",
    "the larger of two": "b = Tanh(x) a = Max(x, b)",
}


@pytest.mark.parametrize("name", JUMPS)
def test_what_has_no_slope_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=r"has no Lipschitz bound: node 'a|b|c|g|s'"):
        network_of(one(JUMPS[name]), DIMS)


def contexts(form: ForgedFunction, c: float) -> list[tuple[EncodingContext, onnx.ModelProto]]:
    """Every way in which a form is written in float32."""
    found: dict[bytes, tuple[EncodingContext, onnx.ModelProto]] = {}
    ways = itertools.product((False, True), (None, 1), (False, True), TARGETS, (8, 12, 18))
    for nonnegative, channels, relu, target, opset in ways:
        context = EncodingContext(
            "float32", opset, nonnegative, channels, relu and nonnegative, target=target, c=c
        )
        encoding = form.encoding(context)
        if encoding.build is not None:
            model = _forged(encoding.build, context, form.threshold(c, "float32"))
            found[model.SerializeToString(deterministic=True)] = (context, model)
    return list(found.values())


def _forged(
    built: Callable[[Emitter, ir.Value, float], ir.Value], context: EncodingContext, c: float
) -> onnx.ModelProto:
    kind = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", type=kind, shape=ir.Shape(["n", *DIMS]))
    emit = Emitter("layer")
    made = built(emit, x, c)
    flat = ir.node("Flatten", [made])
    y = flat.outputs[0]
    y.name, y.type, y.shape = "y", kind, ir.Shape(["n", 1])
    graph = ir.Graph(
        [x], [y], nodes=[*emit.nodes, flat], name="g", opset_imports={"": context.opset}
    )
    model: onnx.ModelProto = ir.to_proto(ir.Model(graph, ir_version=8))
    return model


@pytest.mark.parametrize("c", [0.0371, 2.0, 3000.0])
@pytest.mark.parametrize(
    "form",
    [make_form("soft"), make_form("smooth"), make_form("smooth", a=2.0, b=0.5)],
    ids=repr,
)
def test_every_encoding_has_the_slope_of_its_form(form: ForgedFunction, c: float) -> None:
    made = contexts(form, c)
    assert len(made) > 1
    for context, model in made:
        step = slope_of(model)
        assert step.high == pytest.approx(form.slope, rel=CLOSE)
        assert step.low <= 0
        x = np.linspace(0 if context.nonnegative else -8 * c, 8 * c, 20_001)
        y = np.diff(form(x, c)) / np.diff(x)
        assert step.low - ROUNDING <= y.min()
        assert y.max() <= step.high * (1 + 1e-5)


@pytest.mark.parametrize("c", [0.0371, 2.0, 3000.0])
def test_every_encoding_of_hard_is_refused(c: float) -> None:
    made = contexts(make_form("hard"), c)
    operators = {node.op_type for _, model in made for node in model.graph.node}
    assert {"ThresholdedRelu", "Where", "Cast", "Shrink", "HardSigmoid"} <= operators
    for _, model in made:
        with pytest.raises(ModelError, match="has no Lipschitz bound: .*(jump|steep)"):
            network_of(model, DIMS)


def test_all_forms_are_among_these() -> None:
    assert set(FORMS) == {"soft", "smooth", "hard"}
