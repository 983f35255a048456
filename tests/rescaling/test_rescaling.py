"""A rescaled network is the factor times the original, and has the bound it shall have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lipcompile import model_io
from lipcompile.errors import CheckFailed, ModelError, OptionError
from lipcompile.passes.rescale_constants import RescaleConstants
from lipcompile.rescaling.factors import all_factors, choose_exponents
from lipcompile.rescaling.homogeneous import read_network
from lipcompile.rescaling.options import LipschitzOptions
from lipcompile.rescaling.plan import Rescaling
from lipcompile.rescaling.rescaling import apply, check_rescaled, compare, rescale
from lipcompile.runtime import RuntimeOptions, open_session
from tests.rescaling.networks import PIXELS, drawn_network, product, text_network

QUIET = RuntimeOptions(threads=1)
DENSE = "f = Flatten(h) y = Gemm(f, W, B)"
CONV = "c = Conv<pads = [1, 1, 1, 1]>(x, K, B)"
CHAIN = f"{CONV} h = Relu(c) {DENSE}"


def rescaled(proto: onnx.ModelProto, bound: float) -> tuple[Any, Rescaling]:
    result, plan, _ = rescale(model_io.load(proto), proto, LipschitzOptions(bound), PIXELS)
    return result, plan


def run(proto: Any, output: str = "y", seed: int = 0) -> np.ndarray:
    images = np.random.default_rng(seed).random((12, 3, 8, 8), np.float32)
    session = open_session(proto.SerializeToString(), QUIET)
    return session.run([output], {"x": images})[output]


def weights(proto: Any) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


@pytest.mark.parametrize("seed", range(20))
def test_random_networks(seed: int) -> None:
    proto = drawn_network(seed)
    bound = (0.37, 1.0, 25.0)[seed % 3]
    result, plan = rescaled(proto, bound)
    assert product(result) == pytest.approx(bound, rel=1e-6)
    assert plan.factor == bound / plan.product
    before, after = run(proto), run(result)
    wanted = before.astype(np.float64) * plan.factor
    assert np.abs(after - wanted).max() <= 2e-5 * np.abs(wanted).max()
    gap = np.diff(np.sort(wanted, axis=1)[:, -2:]).ravel()
    clear = gap > 1e-4 * np.abs(wanted).max()
    assert clear.mean() > 0.5
    assert (before.argmax(axis=1) == after.argmax(axis=1))[clear].all()


@pytest.mark.parametrize("seed", range(4))
def test_powers_of_two_are_exact(seed: int) -> None:
    proto = drawn_network(seed)
    result, plan = rescaled(proto, float(f"{product(proto):.12g}") / 1024)
    assert plan.factor == 2**-10
    np.testing.assert_array_equal(run(result), run(proto) * np.float32(2**-10))


def test_same_bytes_again_and_from_the_record() -> None:
    proto = drawn_network(7)
    result, plan = rescaled(proto, 1.0)
    again, _ = rescaled(drawn_network(7), 1.0)
    assert result.SerializeToString() == again.SerializeToString()
    read = Rescaling.from_json(plan.to_json())
    rebuilt = apply(model_io.load(proto), proto, read)
    assert result.SerializeToString() == rebuilt.SerializeToString()


def test_layers_of_a_chain_get_about_the_same_norm() -> None:
    """Up to powers of two, and the last layer up to what is left of them."""
    rng = np.random.default_rng(0)
    arrays = {"W": rng.normal(size=(192, 4)).astype(np.float32) * 1000}
    arrays |= {f"F{i}": rng.normal(size=(4, 4)).astype(np.float32) * 10.0**-i for i in (1, 2)}
    body = "f = Flatten(x) a = Gemm(f, W) h = Relu(a) b = Gemm(h, F1) i = Relu(b) "
    proto = text_network(body + "y = Gemm(i, F2)", arrays=arrays)
    result, _ = rescaled(proto, 8.0)
    norms = [np.linalg.norm(weights(result)[name], 2) for name in ("W", "F1", "F2")]
    before = [np.linalg.norm(arrays[name], 2) for name in ("W", "F1", "F2")]
    assert max(before) / min(before) > 1e4
    assert max(norms) / min(norms) < 2.1
    assert np.prod(norms) == pytest.approx(8.0, rel=1e-6)


def test_only_the_last_layers_take_what_is_no_power_of_two() -> None:
    proto = drawn_network(2)
    result, _ = rescaled(proto, 0.123)
    ends = {name for node in result.graph.node if node.output[0] == "y" for name in node.input}
    inexact = set()
    for name, array in weights(result).items():
        before = weights(proto)[name]
        ratios = (array[before != 0] / before[before != 0]).astype(np.float64)
        if array.dtype == np.float32 and (np.frexp(ratios)[0] != 0.5).any():
            inexact.add(name)
    producers = {node.output[0]: node for node in result.graph.node}
    feeding = {name for end in ends if end in producers for name in producers[end].input}
    assert inexact
    assert inexact <= ends | feeding


# What is planted


@pytest.mark.parametrize("index", [1, 2])
def test_a_bias_or_weight_that_is_not_scaled_is_caught(index: int) -> None:
    proto = text_network(CHAIN)
    source = model_io.load(proto)
    result, plan = rescaled(proto, 1.0)
    feeds = [PIXELS.random_feeds(source)]
    assert compare(source, proto, result, plan, feeds, QUIET).holds
    fresh = model_io.load(proto)
    network = read_network(fresh, None)
    factors = all_factors(network, choose_exponents(network, plan.factor), plan.factor)
    head = next(node for node in fresh.graph_ir.graph if node.op_type == "Gemm")
    del factors[head, index]
    RescaleConstants(factors)(fresh.graph_ir)
    planted = model_io.render(fresh.proto, fresh.graph_ir)
    with pytest.raises(CheckFailed, match=r"was rescaled by .* gives something else \(logits"):
        check_rescaled(source, proto, planted, plan, feeds, QUIET)


def test_another_bound_than_the_one_that_was_asked_for_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apply_it = apply

    def planted(source: Any, proto: Any, plan: Rescaling) -> Any:
        return apply_it(source, proto, Rescaling.from_json(plan.to_json() | {"bound": 2.0}))

    monkeypatch.setattr("lipcompile.rescaling.rescaling.apply", planted)
    with pytest.raises(CheckFailed, match="to a product bound of 1, and has 2"):
        rescaled(text_network(CHAIN), 1.0)


# How constants are stored


STORED = {
    "shared by two layers": f"{CONV} r = Relu(c) e = Conv<pads = [1, 1, 1, 1]>(r, K2, B) "
    "s = Relu(e) d = Conv<pads = [1, 1, 1, 1]>(s, K2, B) h = Relu(d) " + DENSE,
    "behind Transpose": f"{CONV} h = Relu(c) f = Flatten(h) t = Transpose(WT) "
    "y = MatMul(f, t)",
    "behind Identity": f"{CONV} h = Relu(c) i = Identity(W) f = Flatten(h) y = MatMul(f, i)",
    "one bias, also of a BatchNormalization": f"{CONV} n = BatchNormalization(c, P, B, B, P) "
    f"h = Relu(n) {DENSE}",
    "in a Constant node": f"{CONV} k = Constant<value = float {{2.5}}>() m = Mul(c, k) "
    f"h = Relu(m) {DENSE}",
    "a constant in a Concat": f"{CONV} h = Relu(c) f = Flatten(h) g = MatMul(f, W) "
    "o = Add(g, B) y = MatMul(o, F)",
    "a weight on the left": f"{CONV} h = Relu(c) f = Flatten(h) t = Transpose(f) "
    "u = MatMul(WT, t) y = Transpose(u)",
    "a bias that is an activation": f"{CONV} h = Relu(c) f = Flatten(h) b = MatMul(f, W) "
    "y = Gemm<beta = 0.5>(f, W, b)",
}


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("ir_version", [3, 8])
def test_constants_wherever_they_are_stored(name: str, ir_version: int) -> None:
    opset = 8 if ir_version == 3 else 17
    proto = text_network(STORED[name], opset=opset, ir_version=ir_version)
    source = model_io.load(proto)
    network = read_network(source, None)
    plan = Rescaling(1.0, 3.7, {}, "y", None, PIXELS)
    named = {v.name or "": k for v, k in choose_exponents(network, plan.factor).items()}
    plan = Rescaling(1.0, 3.7, named, "y", None, PIXELS)
    result = apply(source, proto, plan)
    assert list(result.graph.input) == list(proto.graph.input)
    np.testing.assert_allclose(run(result), run(proto) / 3.7, rtol=2e-5, atol=1e-5)


def test_external_weights(external_cnn: Any, tmp_path: Any) -> None:
    source = model_io.load(external_cnn(tmp_path))
    pixels = PIXELS
    result, plan, _ = rescale(source, source.proto, LipschitzOptions(1.0), pixels)
    feeds = [pixels.random_feeds(source)]
    assert compare(source, source.proto, result, plan, feeds, QUIET).holds


# What stays


def test_other_outputs_keep_their_numbers() -> None:
    proto = text_network(CHAIN, "float[N,4] y, float[N,4,8,8] h")
    result, plan = rescaled_with_scores(proto)
    np.testing.assert_array_equal(run(result, "h"), run(proto, "h"))
    np.testing.assert_allclose(run(result), run(proto) * plan.factor, rtol=1e-4)


def rescaled_with_scores(proto: onnx.ModelProto) -> tuple[Any, Rescaling]:
    options = LipschitzOptions(1.0, "y")
    result, plan, _ = rescale(model_io.load(proto), proto, options, PIXELS)
    return result, plan


@pytest.mark.parametrize("ending", ["Softmax", "LogSoftmax"])
def test_decisions_behind_a_softmax_stay(ending: str) -> None:
    body = CHAIN.replace("y =", "z =") + f" y = {ending}<axis = 1>(z)"
    proto = text_network(body)
    result, plan = rescaled(proto, product(proto) / 100)
    assert plan.ends_in == ending
    assert f"the probabilities behind {ending} change, and no decision does" in str(plan)
    before, after = run(proto), run(result)
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()
    assert np.abs(before - after).max() > 0.1


def test_labels_beside_the_scores_stay() -> None:
    body = CHAIN + " l = ArgMax<axis = 1, keepdims = 0>(y)"
    proto = text_network(body, "float[N,4] y, int64[N] l")
    result, _ = rescaled(proto, 0.5)
    np.testing.assert_array_equal(run(result, "l"), run(proto, "l"))


# Refusals


def bent(what: str) -> str:
    return f"{CONV} h = {what} {DENSE}"


REFUSED = {
    "Sigmoid": (bent("Sigmoid(c)"), r"node 'Sigmoid_h' \(Sigmoid\) is not positively homog"),
    "Clip": (bent("Clip(c, ZERO, ONE)"), r"node 'Clip_h' \(Clip\) is not positively"),
    "Tanh": (bent("Tanh(c)"), "is not positively homogeneous"),
    "product": (bent("Mul(c, c)"), "multiplies two activations"),
    "attention": (bent("MatMul(c, c)"), "multiplies two activations, or has a weight that"),
    "division": (bent("Div(ONE, c)"), "divides by an activation"),
    "Pad": (bent("Pad<pads = [0,0,1,1,0,0,1,1]>(c, PADS, ONE)"), "pads with a value that is"),
    "training": (
        bent("BatchNormalization<training_mode = 1>(c, P, B, B, P)").replace(
            "h = Batch", "h, m, v = Batch"
        ),
        None,
    ),
    "Softmax inside": (
        bent("Softmax(c)"),
        r"\(Gemm\) reads what a Softmax or ArgMax gives",
    ),
    "Cast": (f"{CONV} h = Cast<to = 10>(c) {DENSE}", "casts activations to a type in which"),
    "Dropout": (bent("Dropout(c, ONE, YES)"), "drops activations at random"),
    "Reshape": (
        f"{CONV} h = Relu(c) r = Reshape(WT, SHAPE) f = Flatten(h) y = MatMul(f, r)",
        "has an input 1 that is made by Reshape",
    ),
    "integers": (
        f"{CONV} h = Relu(c) w = DequantizeLinear(Q, ONE) f = Flatten(h) y = MatMul(f, w)",
        "has an input 1 that is quantised, and scaling would round it",
    ),
    "half": (
        f"{CONV} h = Relu(c) w = Cast<to = 1>(H) f = Flatten(h) y = MatMul(f, w)",
        "has an input 1 in float16, float32, where scaling rounds",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name: str) -> None:
    body, match = REFUSED[name]
    arrays = {
        "PADS": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "YES": np.array(True),
        "SHAPE": np.array([256, 4]),
        "Q": np.ones((256, 4), np.int8),
        "H": np.ones((256, 4), np.float16),
    }
    body = body.replace("<pads = [0,0,1,1,0,0,1,1]>", "")
    with pytest.raises(
        ModelError, match=match or r"normalises by the batch \(training mode\)"
    ):
        rescaled(text_network(body, arrays=arrays), 1.0)


def test_no_layer_between_image_and_scores_is_refused() -> None:
    proto = text_network("p = GlobalAveragePool(x) y = Flatten(p)", "float[N,3] y")
    with pytest.raises(ModelError, match="no linear layer stands between the image and the"):
        rescaled(proto, 1.0)


def test_another_output_that_shares_the_factor_is_refused() -> None:
    proto = text_network(CHAIN + " r = Relu(y)", "float[N,4] y, float[N,4] r")
    with pytest.raises(ModelError, match="stands between 'r' and the scores 'y'"):
        rescaled_with_scores(proto)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_bounds_that_are_none(bound: float) -> None:
    with pytest.raises(OptionError, match=r"--lipschitz .* is out of range"):
        LipschitzOptions(bound)


def test_bound_that_is_no_number() -> None:
    assert LipschitzOptions.of("1/4").bound == 0.25
    with pytest.raises(OptionError, match="--lipschitz 'one' is no number: write it like 1"):
        LipschitzOptions.of("one")


@pytest.mark.parametrize(("bound", "what"), [(1e60, "overflows"), (1e-60, "vanishes")])
def test_what_float32_does_not_hold_is_refused(bound: float, what: str) -> None:
    with pytest.raises(ModelError, match=f"has a constant that {what} when it is multiplied"):
        rescaled(text_network(CHAIN), bound)
