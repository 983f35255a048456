"""A wrapped model gives the mean over views of what the model gives, in two evaluators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.ensembles.models import Network, in_reference, in_runtime, wrapped
from tests.ensembles.seen import VIEWS, expected

OPSETS = [7, 9, 10, 11, 13, 18, 21]
# Of the largest score. In float16 views, scores and mean are rounded to 2^-11 each.
TOLERANCE = {"float16": 4e-3, "float64": 1e-12}

ways = pytest.mark.parametrize("way", ["batch", "branches"])
views = pytest.mark.parametrize("name", VIEWS)


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference, over the largest number that is wanted."""
    assert found.shape == wanted.shape
    difference = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    return float(difference.max() / np.abs(wanted).max())


def check_mean(
    network: Network, name: str, way: str, mean: str = "scores", **options: Any
) -> None:
    """Both evaluators give the mean over views, alone and in a batch; and views do matter."""
    model = wrapped(network.proto(), name, way, mean=mean, **options)
    tolerance = TOLERANCE.get(network.dtype, 1e-5)
    for count in (1, 3) if network.batch == "N" else (int(network.batch),):
        batch = network.batch_of(count)
        wanted = expected(network, batch, name, mean)
        plain = in_runtime(network.proto(), batch)
        assert apart(plain, wanted) > 10 * tolerance, "the views change nothing"
        for evaluate in (in_runtime, in_reference):
            found = evaluate(model, batch)
            assert found.dtype == plain.dtype
            assert apart(found, wanted) <= tolerance, f"{evaluate.__name__}, batch {count}"


@views
@ways
@pytest.mark.parametrize("opset", OPSETS)
def test_opsets(opset: int, way: str, name: str) -> None:
    check_mean(Network(opset), name, way)


@views
@ways
@pytest.mark.parametrize("opset", [9, 18])
def test_images_with_channels_last(opset: int, way: str, name: str) -> None:
    check_mean(Network(opset, layout="NHWC"), name, way)


@views
@ways
@pytest.mark.parametrize(
    ("layout", "said"), [("grey", None), ("flat", "NCHW"), ("flat NHWC", "NHWC")]
)
def test_images_that_are_named(layout: str, said: str | None, way: str, name: str) -> None:
    check_mean(Network(layout=layout), name, way, image_input="x", layout=said)


@ways
def test_flat_images_in_the_first_opset(way: str) -> None:
    network = Network(7, layout="flat")
    check_mean(network, "flip+scale:1.2", way, image_input="x", layout="NCHW")


@views
@ways
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_element_types(dtype: str, way: str, name: str) -> None:
    check_mean(Network(dtype=dtype), name, way)


@ways
@pytest.mark.parametrize(
    ("opset", "name"),
    [(9, "flip"), (11, "flip"), (11, "shift:2"), (17, "shift:2"), (17, "flip*shift:1")],
)
def test_whole_numbers(opset: int, name: str, way: str) -> None:
    check_mean(Network(opset, dtype="uint8"), name, way)


@ways
@pytest.mark.parametrize("mean", ["scores", "logits", "probabilities"])
@pytest.mark.parametrize("ending", ["", "Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset", [9, 13, 18])
def test_means(opset: int, ending: str, mean: str, way: str) -> None:
    check_mean(Network(opset, ending=ending), "flip+scale:1.2", way, mean)


@ways
@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("ending", ["", "Softmax"])
def test_means_of_probabilities_in_element_types(ending: str, dtype: str, way: str) -> None:
    check_mean(Network(dtype=dtype, ending=ending), "flip", way, "probabilities")


def test_means_differ() -> None:
    """Else the tests above could not tell one from another."""
    network = Network(ending="Softmax")
    batch = network.batch_of(3)
    for ending in ("Softmax", "LogSoftmax"):
        which = replace(network, ending=ending)
        rows = [expected(which, batch, "flip", mean) for mean in ("scores", "logits")]
        assert apart(*rows) > 1e-3
    plain = replace(network, ending="")
    assert apart(*(expected(plain, batch, "flip", m) for m in ("scores", "logits"))) == 0
    found = in_runtime(wrapped(plain.proto(), "flip", "batch", mean="probabilities"), batch)
    assert np.exp(found).sum(axis=1) == pytest.approx(np.ones(3), abs=1e-5)


@pytest.mark.parametrize("ending", ["", "LogSoftmax"])
@ways
def test_probabilities_that_vanish_have_a_finite_logarithm(way: str, ending: str) -> None:
    """Scores a thousand apart: the least probability is 0 in float32."""
    network = Network(ending=ending)
    model = wrapped(network.proto(), "flip", way, mean="probabilities")
    batch = 1e4 * network.batch_of(3)
    found = in_runtime(model, batch)
    assert np.ptp(in_runtime(replace(network, ending="").proto(), batch)) > 1e3
    assert np.isfinite(found).all()
    assert found.min() == pytest.approx(np.log(np.finfo(np.float32).tiny))


@ways
@pytest.mark.parametrize("batch", ["1", "4"])
@pytest.mark.parametrize("name", ["flip", "flip*shift:1"])
def test_fixed_batches(name: str, batch: str, way: str) -> None:
    check_mean(Network(batch=batch), name, way)
