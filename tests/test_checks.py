"""Comparing outputs: which rows are samples', and what counts as broken."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import lipcompile
from lipcompile import model_io
from lipcompile.calibration.probes import Probe
from lipcompile.checks import Agreement, check_compaction, measure_agreement
from lipcompile.errors import CheckFailed
from lipcompile.forged import Hard
from lipcompile.forging import thresholds_of
from lipcompile.layer_cr import LayerCr
from lipcompile.runtime import RuntimeOptions, open_session
from lipcompile.sites import Selector, find_sites
from lipcompile.zeroing import WeightOptions, zero


class Fixed:
    """A session that gives what it was made with."""

    def __init__(self, output: np.ndarray) -> None:
        self._output = output

    def run(self, outputs: list[str], feeds: Any) -> dict[str, np.ndarray]:
        return {"y": self._output}


SCORES = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], np.float32)


def agreement(before: np.ndarray, after: np.ndarray, count: int, padding: int) -> Any:
    return measure_agreement(Fixed(after), [Probe({}, {"y": before}, count, padding)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("count", "padding", "same"),
    [
        (2, 0, 0.5),
        (1, 1, 1.0),  # the second row only fills up a fixed batch
        (1, 5, 0.5),  # axis 0 of this output does not count samples
    ],
)
def test_rows_that_fill_up_a_batch_are_left_out(count: int, padding: int, same: float) -> None:
    after = SCORES.copy()
    after[1] = SCORES[0]
    found, broken = agreement(SCORES, after, count, padding)
    assert (found.top1, broken) == (same, ())


def test_an_output_without_rows_has_no_class_scores() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert agreement(empty, empty, 1, 0)[0].top1 is None


def test_an_output_that_became_nan_is_named_and_one_that_was_is_not() -> None:
    broken = SCORES.copy()
    broken[0, 0] = np.nan
    found, names = agreement(SCORES, broken, 2, 0)
    assert names == ("y",)
    assert found.max_difference == 0.0
    found, names = agreement(broken, broken, 2, 0)
    assert names == ()
    assert found.original_has_nan


@pytest.mark.parametrize(
    ("before", "after", "equal"),
    [
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 4]), 1.0),
        (np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4]), 0.75),
        (np.array([True, False]), np.array([True, True]), 0.5),
        (np.array(["cat", "dog"], object), np.array(["cat", "cow"], object), 0.5),
        (np.array(7), np.array(8), 0.0),
        (np.array([1, 2]), np.array([1, 2, 3]), 0.0),  # another shape
    ],
)
def test_labels_that_differ_are_no_perfect_agreement(
    before: np.ndarray, after: np.ndarray, equal: float
) -> None:
    found = agreement(before, after, before.size, 0)[0]
    assert (found.integer_agreement, found.max_difference) == (equal, 1 - equal)
    assert found.top1 is None
    assert found.to_json()["integer_agreement"] == equal


def test_labels_that_fill_up_a_batch_are_left_out() -> None:
    assert agreement(np.array([1, 2]), np.array([1, 0]), 1, 1)[0].integer_agreement == 1.0


def test_float_outputs_alone_have_no_integer_agreement() -> None:
    found = agreement(SCORES, SCORES, 2, 0)[0]
    assert found == Agreement(2, 1.0, 0.0)
    assert found.integer_agreement is None


# What compaction did is checked.

BODY = """<ir_version: 8, opset_import: ["": 17]> g (float[N,8] x) => ({outputs}) {{
    h = MatMul(x, W)  r = Relu(h)  y = MatMul(r, V)  {more} }}"""
DEAD = [1, 4]
RNG = np.random.default_rng(0)
WEIGHTS = {
    "W": RNG.normal(size=(8, 6)).astype("f4"),
    "V": RNG.normal(size=(6, 5)).astype("f4"),
}
FEEDS = {"x": RNG.normal(size=(64, 8)).astype("f4")}


def model(
    drop: list[int] | None = None, outputs: str = "float[N,5] y", more: str = ""
) -> onnx.ModelProto:
    """Two layers; rows 1 and 4 of the second are zero, and the channels `drop` are gone."""
    proto = onnx.parser.parse_model(BODY.format(outputs=outputs, more=more))
    second = WEIGHTS["V"].copy()
    second[DEAD] = 0
    keep = [index for index in range(6) if index not in (drop or [])]
    arrays = {"W": WEIGHTS["W"][:, keep], "V": second[keep], "steps": np.array(1e-3, "f4")}
    used = {name for node in proto.graph.node for name in node.input}
    for name in sorted(used & set(arrays)):
        proto.graph.initializer.append(numpy_helper.from_array(arrays[name], name))
    return proto


def check(zeroed: onnx.ModelProto, compacted: onnx.ModelProto) -> None:
    session = open_session(zeroed.SerializeToString(), RuntimeOptions())
    outputs = session.run(session.outputs, FEEDS)
    # The outputs of the original are not those of the zeroed model, and do not matter.
    probe = Probe(FEEDS, {name: array[:0] for name, array in outputs.items()}, 64)
    loaded = model_io.load(model())
    check_compaction(loaded, zeroed, compacted, [probe], RuntimeOptions())


LABELS = {
    "outputs": "float[N,5] y, int64[N] label",
    "more": "label = ArgMax<axis = 1, keepdims = 0>(y)",
}
BLOWN_UP = {
    "outputs": "float[N,5] z",
    "more": "f = Div(y, steps) g = Floor(f) z = Mul(g, steps)",
}


@pytest.mark.parametrize("options", [{}, LABELS, BLOWN_UP], ids=["scores", "labels", "steps"])
def test_channels_that_are_dead_change_nothing(options: dict[str, str]) -> None:
    check(model(**options), model(DEAD, **options))


@pytest.mark.parametrize("options", [{}, LABELS], ids=["scores", "labels"])
def test_a_channel_that_was_needed_is_missed(options: dict[str, str]) -> None:
    with pytest.raises(CheckFailed, match="moved output 'y' .* leave out --compact"):
        check(model(**options), model([1, 2], **options))


def test_labels_alone_tell_of_a_channel_that_was_needed() -> None:
    options = {**LABELS, "outputs": "int64[N] label"}
    with pytest.raises(CheckFailed, match="moved output 'label'"):
        check(model(**options), model([1, 2, 3], **options))


def test_a_small_output_is_not_hidden_by_a_large_one() -> None:
    options = {
        "outputs": "float[N,5] big, float[N,5] small",
        "more": "k = MatMul(x, K) big = Div(k, steps) small = Mul(y, steps)",
    }
    protos = [model(**options), model([1, 2], **options)]
    for proto in protos:
        proto.graph.initializer.append(
            numpy_helper.from_array(np.full((8, 5), 100, "f4"), "K")
        )
    with pytest.raises(CheckFailed, match="moved output 'small'"):
        check(*protos)


def test_an_output_that_became_nan_is_never_rounding() -> None:
    broken = model(DEAD)
    array = numpy_helper.to_array(broken.graph.initializer[0]).copy()
    array[0, 0] = np.nan
    broken.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "V"))
    with pytest.raises(CheckFailed, match="moved output 'y'"):
        check(model(), broken)


def test_without_data_nothing_is_run() -> None:
    check_compaction(model_io.load(model()), None, None, [], RuntimeOptions())


@pytest.mark.parametrize("compact", [True, False])
def test_zeroing_hands_on_what_compaction_is_compared_with(compact: bool) -> None:
    """The model before channels went; nothing where none were to go."""
    proto = model()
    first = next(t for t in proto.graph.initializer if t.name == "W")
    array = numpy_helper.to_array(first).copy()
    array[:, DEAD] *= 1e-4  # two channels whose activations are below the threshold
    first.CopyFrom(numpy_helper.from_array(array, "W"))
    c_r, rules = LayerCr(2**-6), Selector("all")
    table = lipcompile.calibrate(proto, [FEEDS], selector=rules, count_cr=(2**-6,))
    loaded = model_io.load(proto)
    thresholds = thresholds_of(find_sites(loaded.graph_ir, rules), table, c_r, Hard())
    done = zero(loaded, thresholds, WeightOptions(1.0, compact), table, c_r)
    assert (done.uncompacted is not None) == compact
    if done.uncompacted is not None:
        shapes = {t.name: list(t.dims) for t in done.uncompacted.graph.initializer}
        assert (shapes["W"], shapes["V"]) == ([8, 6], [6, 5])
        check(done.uncompacted, done.proto)
