"""Models for which a mean over views is hard to build: it is exact, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import lipcompile
from lipcompile import HardenResult, RuntimeOptions
from lipcompile.ensembles.options import EnsembleOptions
from lipcompile.errors import ModelError
from tests.ensembles.models import CLASSES, add_initializers, parse
from tests.ensembles.seen import FOUR_WAYS, Seen, flipped, moved, same, softmax

ONE_THREAD = RuntimeOptions(threads=1)
OPEN, FIXED = "float[N,3,h,w] x", "float[N,3,12,16] x"
SIX: list[Seen] = [same, flipped, *(moved(*step) for step in FOUR_WAYS)]
SEEN = {"flip": SIX[:2], "flip+shift:1": SIX}
SCORES = "y = MatMul(f, W)"
HEAD = "p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, W)"
ways = pytest.mark.parametrize("way", ["batch", "branches"])


def made(body: str, inputs: str = OPEN) -> onnx.ModelProto:
    """Scores [N, 5] in "y"; the body may read weights of a few names."""
    rng = np.random.default_rng(0)
    model = parse(body, inputs, f"float[N,{CLASSES}] y")
    weights: dict[str, np.ndarray] = {
        "K": rng.normal(size=(6, 3, 3, 3)),
        "W": rng.normal(size=(6, CLASSES)),
        "MASK": np.array([0, 0, -np.inf, 0, 0]),
        "SOME": rng.normal(size=(1, CLASSES)),
        "LIMIT": np.array(1.5),
        **{name: rng.uniform(0.5, 1, 6) for name in ("G", "H", "M", "V")},
    }
    arrays = {name: array.astype(np.float32) for name, array in weights.items()}
    arrays |= {"ROW": np.array([1, -1]), "PIXEL": np.zeros(4, np.int64), "YES": np.array(True)}
    add_initializers(model, arrays)
    return model


def images(count: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, 3, 12, side)).astype(np.float32)


def hardened(proto: onnx.ModelProto, views: str = "flip", **options: Any) -> HardenResult:
    calib = options.pop("calib", None)
    around = EnsembleOptions(views, **options)
    return lipcompile.harden(proto, calib, ensemble=around, runtime=ONE_THREAD)


def way_of(result: HardenResult) -> str:
    assert result.ensemble is not None
    return result.ensemble.way


def run(proto: onnx.ModelProto, **feeds: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    scores: np.ndarray = session.run(["y"], feeds)[0]
    return scores


def check_mean(
    proto: onnx.ModelProto, wrapped: onnx.ModelProto, views: str, x: np.ndarray, **more: Any
) -> None:
    """The mean of what the original gives for every view of the batch by itself."""
    each = [run(proto, x=np.ascontiguousarray(view(x)), **more) for view in SEEN[views]]
    mean = np.stack(each).astype(np.float64).mean(axis=0)
    found = run(wrapped, x=x, **more)
    finite = np.isfinite(mean)
    apart = np.abs(mean[finite] - each[0][finite]).max()
    assert apart > 1e-3 * np.abs(mean[finite]).max(), "the views change nothing"
    np.testing.assert_allclose(found, mean, rtol=1e-4, atol=1e-5)


# One image changes what is made of another

MIXING = {
    "ReduceMax": f"a = Conv(x, K) m = ReduceMax(a) d = Div(a, m) r = Relu(d) {HEAD}",
    "DynamicQuantizeLinear": (
        "a = Conv(x, K) b = Relu(a) q, s, z = DynamicQuantizeLinear(b) "
        f"r = DequantizeLinear(q, s, z) {HEAD}"
    ),
    "BatchNormalization": (
        "a = Conv(x, K) b, v, w = BatchNormalization<training_mode = 1>(a, G, H, M, V) "
        f"r = Relu(b) {HEAD}"
    ),
}
_ARMS = (
    "<then_branch = t () => (float[N,6,h,w] q) { q = Relu(IT) }, "
    "else_branch = e () => (float[N,6,h,w] s) { s = Neg(IT) }> "
)
CONTROL = {
    "is control flow that depends on the image": (
        "a = Conv(x, K) m = GatherND(x, PIXEL) c = Greater(m, LIMIT) "
        f"r = If(c) {_ARMS.replace('IT', 'a')} {HEAD}"
    ),
    "reads the image in a subgraph": (
        f"i = If(YES) {_ARMS.replace('IT', 'x').replace('6', '3')} r = Conv(i, K) {HEAD}"
    ),
}
samples = pytest.mark.parametrize("data", [True, False], ids=["data", "no data"])


@samples
@pytest.mark.parametrize("op_type", MIXING)
def test_what_sees_other_images_runs_on_one_view_at_a_time(op_type: str, data: bool) -> None:
    proto, x = made(MIXING[op_type]), images(2)
    result = hardened(proto, calib=images(4) if data else None)
    assert way_of(result) == "branches"
    check_mean(proto, result.model, "flip", x)
    with pytest.raises(ModelError, match=f"has a {op_type} .* cannot hold all views"):
        hardened(proto, calib=images(4) if data else None, by="batch")


@samples
@pytest.mark.parametrize("inputs", [OPEN, FIXED], ids=["open", "fixed"])
@pytest.mark.parametrize("reason", CONTROL)
def test_control_flow_over_the_image_is_refused(reason: str, inputs: str, data: bool) -> None:
    proto, calib = made(CONTROL[reason], inputs), images(4) if data else None
    assert run(proto, x=images(2)).shape == (2, CLASSES), "the original does run"
    with pytest.raises(ModelError, match=r"\(If\) .* has a subgraph, which is not copied"):
        hardened(proto, calib=calib)
    with pytest.raises(ModelError, match=f"has a If '' that {reason}"):
        hardened(proto, calib=calib, by="batch")


def test_a_maximum_that_random_images_do_not_tell_of() -> None:
    """It is lost by a shift only where it lies at the border: rare among 64 by 64 pixels."""
    body = f"m = ReduceMax(x) b = Div(x, m) a = Conv(b, K) r = Relu(a) {HEAD}"
    proto = made(body, "float[N,3,64,64] x")
    result = hardened(proto, "flip+shift:1")
    assert way_of(result) == "branches"
    x = np.random.default_rng(1).uniform(0, 0.5, (2, 3, 64, 64)).astype(np.float32)
    x[:, 0, 0, 5] = 1  # above the frame of the view that moves up
    check_mean(proto, result.model, "flip+shift:1", x)


# Sizes that only data tell


def test_views_of_an_open_size_are_not_verified_without_data() -> None:
    proto = made(f"a = Conv<pads = [1, 1, 1, 1]>(x, K) r = Relu(a) {HEAD}")
    model = hardened(proto, "flip+shift:1").model
    check_mean(proto, model, "flip+shift:1", images(2))
    found = lipcompile.verify(proto, model, runtime=ONE_THREAD, pairs=0)
    undecided = {check.name for check in found.checks if check.holds is None}
    assert found.holds and undecided == {"ensemble", "finite outputs"}
    with_data = lipcompile.verify(proto, model, images(4), runtime=ONE_THREAD, pairs=0)
    assert with_data.holds
    assert {check.name: check.holds for check in with_data.checks}["ensemble"] is True


@pytest.mark.parametrize("inputs", [OPEN, FIXED], ids=["open", "fixed"])
def test_a_batch_that_is_open_in_name_only(inputs: str) -> None:
    """Nothing tells that but a run: random batches of several images do not run at all."""
    proto = made(f"r = Conv(x, K) p = GlobalMaxPool(r) f = Reshape(p, ROW) {SCORES}", inputs)
    result = hardened(proto)
    assert way_of(result) == "branches"
    check_mean(proto, result.model, "flip", images(1))


# Scores

MASKED = "r = Conv(x, K) p = GlobalMaxPool(r) f = Flatten(p) z = MatMul(f, W)"


@ways
@pytest.mark.parametrize("ending", ["Identity", "LogSoftmax"])
def test_a_class_that_is_never_given(ending: str, way: str) -> None:
    proto = made(f"{MASKED} m = Add(z, MASK) y = {ending}(m)", FIXED)
    result = hardened(proto, by=way)
    assert way_of(result) == way
    check_mean(proto, result.model, "flip", images(2))
    assert np.isneginf(run(result.model, x=images(2))[:, 2]).all()


@ways
def test_probabilities_of_a_class_that_is_never_given(way: str) -> None:
    proto, x = made(f"{MASKED} y = Add(z, MASK)", FIXED), images(2)
    found = run(hardened(proto, mean="probabilities", by=way).model, x=x)
    each = [softmax(run(proto, x=np.ascontiguousarray(view(x)))) for view in SIX[:2]]
    mean = np.maximum(np.mean(each, axis=0), np.finfo(np.float32).tiny)
    np.testing.assert_allclose(found, np.log(mean), rtol=1e-4)


@pytest.mark.parametrize(
    ("body", "inputs", "said"),
    [
        ("y = Identity(SOME)", "float[1,3,12,16] x", {}),
        (
            f"r = Conv(o, K) p = GlobalMaxPool(r) f = Flatten(p) {SCORES}",
            f"{FIXED}, float[N,3,12,16] o",
            {"image_input": "x"},
        ),
    ],
    ids=["constant", "another input"],
)
def test_scores_that_do_not_depend_on_the_image(body: str, inputs: str, said: Any) -> None:
    for by in (None, "branches"):
        with pytest.raises(
            ModelError, match="'y' do not depend on the input 'x', so that its"
        ):
            hardened(made(body, inputs), by=by, **said)


# Graphs


@pytest.mark.parametrize(("first", "second"), [(0, 1), (2, 4), (0, 4)])
def test_a_graph_in_another_order(first: int, second: int) -> None:
    proto = made(f"a = Conv(x, K) r = Relu(a) {HEAD}", FIXED)
    nodes = list(proto.graph.node)
    nodes[first], nodes[second] = nodes[second], nodes[first]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    result = hardened(proto, "flip+shift:1", by="branches")
    assert way_of(result) == "branches"
    check_mean(proto, result.model, "flip+shift:1", images(2))
