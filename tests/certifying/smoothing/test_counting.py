"""The K integers are what NumPy counts of the plain model, whatever the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from lipcompile.certifying.smoothing import opening
from lipcompile.certifying.smoothing.counting import CountingModel
from lipcompile.certifying.smoothing.graph import COUNTS
from lipcompile.certifying.smoothing.noise import ImageNoise, Stream
from lipcompile.certifying.smoothing.opening import open_counting
from lipcompile.errors import ModelError, OutOfMemory
from lipcompile.labelled import Normalisation
from lipcompile.model_io import LoadedModel
from tests.certifying.smoothing.classifiers import (
    CLASSES,
    DIMS,
    LINEAR,
    ONE_THREAD,
    PLAIN,
    counted,
    external,
    images,
    loaded,
    noisy_inputs,
    scores_alone,
)

SIGMA = 0.6
DRAWS = 150
COLOURS = Normalisation(scale=255.0, mean=(100.0, 120.0), std=(50.0, 70.0))


@dataclass(frozen=True)
class Case:
    """A model, and what is expected of it.

    Attributes:
        model: Makes it.
        normalisation: How pixels become its input.
        rows: How many rows it is run on where 64 are asked for.
        output: Name of its scores.
        unsure: How many draws may fall on the other side by rounding.
    """

    model: Callable[[Path], LoadedModel]
    normalisation: Normalisation = PLAIN
    rows: int = 64
    output: str = "y"
    unsure: int = 0


def case(body: str = LINEAR, **options: object) -> Case:
    kept = {k: options.pop(k) for k in ("normalisation", "rows", "unsure") if k in options}
    return Case(lambda _: loaded(body, **options), **kept)  # type: ignore[arg-type]


NAN = "f = Flatten (x)  z = Gemm (f, W, HIGH)  y = Log (z)"
SHARED = """
    f = Flatten (x)  m = Softmax <axis = 0> (f)
    s = Mul (f, m)  y = Gemm (s, W, B)
"""
QDQ = """
    q = QuantizeLinear (x, S, Z)  d = DequantizeLinear (q, S, Z)
    f = Flatten (d)  y = Gemm (f, W, B)
"""
DYNAMIC = """
    q, s, z = DynamicQuantizeLinear (x)  d = DequantizeLinear (q, s, z)
    f = Flatten (d)  y = Gemm (f, W, B)
"""
HELD = "f = Reshape (x, ONE)  y = Gemm (f, W, B)"
SCALE = {"S": np.array(0.02, np.float32), "Z": np.array(0, np.int8)}
CASES = {
    "linear": case(),
    "normalised": case(normalisation=COLOURS),
    "ends in Softmax": case(f"{LINEAR.replace('y =', 'z =')}  y = Softmax (z)"),
    "Softmax that saturates": case(
        "f = Flatten (x)  z = Gemm (f, W, B)  t = Mul (z, LARGE)  y = Softmax (t)",
        LARGE=np.array(40, np.float32),
    ),
    "NaN rows": case(NAN, HIGH=np.full(CLASSES, 6, np.float32)),
    "infinite scores": case(NAN.replace("Log (z)", "Exp (z)"), HIGH=np.full(3, 88.0, "f4")),
    "float16": case(
        dtype="float16", normalisation=replace(COLOURS, dtype="float16"), unsure=2
    ),
    "float64": case(dtype="double", normalisation=replace(COLOURS, dtype="float64"), unsure=1),
    "int8": case(QDQ, **SCALE),
    "quantised by the batch": case(DYNAMIC, rows=1),
    "mixes its batch": case(SHARED, rows=1),
    "batch in a Reshape": case(HELD, ONE=np.array([1, 18]), shape="1,2,3,3"),
    "batch in a Reshape that infers": case(HELD, ONE=np.array([1, -1]), shape="1,2,3,3"),
    "no batch in a Reshape": case(
        "r = Reshape (x, ONE)  t = Transpose <perm = [1, 0, 2, 3]> (r)  f = Flatten (t) "
        "y = Gemm (f, W, B)",
        ONE=np.array([2, 1, 3, 3]),
        rows=1,
        shape="1,2,3,3",
    ),
    "fixed batch that can be lifted": case(shape="1,2,3,3"),
    "fixed batch of 4": case(HELD, ONE=np.array([4, 18]), shape="4,2,3,3"),
    "fixed batch of 4 that stays": case(
        "f = Flatten (x)  a = Add (f, FOUR)  y = Gemm (a, W, B)",
        FOUR=np.zeros((4, 18), np.float32),
        rows=4,
        shape="4,2,3,3",
    ),
    "NHWC": case(
        "t = Transpose <perm = [0, 3, 1, 2]> (x)  f = Flatten (t)  y = Gemm (f, W, B)",
        shape="N,3,3,2",
        normalisation=replace(COLOURS, layout="NHWC"),
    ),
    "flat": case(
        "y = Gemm (x, W, B)", shape="N,18", normalisation=replace(COLOURS, shape=(18,))
    ),
    "flat NHWC": case(
        "y = Gemm (x, W, B)",
        shape="N,18",
        normalisation=replace(COLOURS, layout="NHWC", shape=(18,)),
    ),
    "BGR": case(normalisation=replace(COLOURS, swaps_channels=True)),
    "scores with further axes": case(
        "c = Conv (x, K)  y = GlobalAveragePool (c)",
        K=np.random.default_rng(1).normal(size=(3, 2, 2, 2)).astype(np.float32),
        outputs="float[N,3,1,1] y",
    ),
    "external weights": Case(external),
    **{f"opset {n}": case(opset=n) for n in (7, 8, 9, 11, 12, 13, 18, 21)},
}


def noise_of(counting: CountingModel, pixels: np.ndarray, draws: int = DRAWS) -> np.ndarray:
    return ImageNoise(pixels, 0, counting.shape).draws(Stream.COUNT, 0, draws)


def counts_of(counting: CountingModel, pixels: np.ndarray, noise: np.ndarray) -> np.ndarray:
    sigma = counting.sigma_of(SIGMA, DIMS)
    return counting.count(counting.image_of(pixels), noise, sigma)


@pytest.mark.parametrize("name", CASES)
def test_counts_are_those_of_the_plain_model_on_the_same_noise(
    name: str, tmp_path: Path
) -> None:
    asked = CASES[name]
    model, data = asked.model(tmp_path), images(normalisation=asked.normalisation)
    counting = open_counting(model, data.normalisation, data.pixels, ONE_THREAD, batch=64)
    assert counting.rows == asked.rows
    for pixels in data.pixels:
        counts = counts_of(counting, pixels, noise_of(counting, pixels))
        inputs = noisy_inputs(data.normalisation, pixels, SIGMA, DRAWS)
        expected = counted(scores_alone(model, inputs))
        assert counts.dtype == np.int64
        assert np.abs(counts - expected).sum() <= 2 * asked.unsure
        assert np.count_nonzero(expected) > 1 or name == "infinite scores"
        assert (expected.sum() < DRAWS) == (name == "NaN rows")


def test_equal_scores_are_the_first_class_and_infinite_ones_count() -> None:
    tied = loaded("f = Flatten (x)  z = Gemm (f, W, B)  y = Sub (z, z)")
    counting = open_counting(tied, PLAIN, images().pixels, ONE_THREAD)
    pixels = images().pixels[0]
    assert counts_of(counting, pixels, noise_of(counting, pixels)).tolist() == [DRAWS, 0, 0]


def test_only_the_counts_leave_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = open_counting(loaded(), PLAIN, images().pixels, ONE_THREAD)
    asked = []
    run = counting.session.run

    def spy(outputs: list[str], feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        result = run(outputs, feeds)
        asked.append({name: array.shape for name, array in result.items()})
        return result

    monkeypatch.setattr(counting.session, "run", spy)
    pixels = images().pixels[0]
    counts_of(counting, pixels, noise_of(counting, pixels))
    assert asked == [{COUNTS: (CLASSES,)}] * 3


@pytest.mark.parametrize("batch", [1, 7, 16, 64, 1000])
def test_any_batch_gives_the_same_counts(batch: int) -> None:
    pixels = images().pixels[0]
    counting = open_counting(loaded(), PLAIN, pixels[None], ONE_THREAD, batch=batch)
    assert counting.rows == batch
    noise = noise_of(counting, pixels)
    whole = counts_of(counting, pixels, noise)
    assert (
        whole.tolist()
        == counted(scores_alone(loaded(), noisy_inputs(PLAIN, pixels, SIGMA, DRAWS))).tolist()
    )
    parts = sum(counts_of(counting, pixels, part) for part in np.split(noise, [3, 70]))
    np.testing.assert_array_equal(parts, whole)


@pytest.mark.parametrize("name", ["mixes its batch", "quantised by the batch"])
def test_rows_that_see_each_other_are_told(name: str, tmp_path: Path) -> None:
    counting = open_counting(CASES[name].model(tmp_path), PLAIN, images().pixels, ONE_THREAD)
    (note,) = counting.notes
    assert "is run on 1 noisy image at a time" in note


def test_rows_that_see_each_other_would_be_counted_wrongly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the comparison is for: without it, the counts are others."""
    monkeypatch.setattr(opening, "_agrees", lambda *_: True)
    model, pixels = loaded(SHARED), images().pixels[0]
    counting = open_counting(model, PLAIN, pixels[None], ONE_THREAD, batch=64)
    counts = counts_of(counting, pixels, noise_of(counting, pixels))
    alone = counted(scores_alone(model, noisy_inputs(PLAIN, pixels, SIGMA, DRAWS)))
    assert np.abs(counts - alone).sum() > DRAWS // 4


def test_model_that_is_no_function_of_one_image_is_refused() -> None:
    body = SHARED.replace("Flatten (x)", "Reshape (x, FOUR)")
    model = loaded(body, FOUR=np.array([4, 18]), shape="4,2,3,3")
    with pytest.raises(ModelError, match=r"other scores when other images are in its batch"):
        open_counting(model, PLAIN, images().pixels, ONE_THREAD)


def test_batch_is_halved_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = images().pixels[0]
    counting = open_counting(loaded(), PLAIN, pixels[None], ONE_THREAD, batch=64)
    noise, run = noise_of(counting, pixels), counting.session.run
    expected = counts_of(counting, pixels, noise)

    def small(outputs: list[str], feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if max(len(array) for array in feeds.values()) > 20:
            raise OutOfMemory("too large")
        return run(outputs, feeds)

    monkeypatch.setattr(counting.session, "run", small)
    np.testing.assert_array_equal(counts_of(counting, pixels, noise), expected)
    assert counting.rows == 16
    monkeypatch.setattr(CountingModel, "_feeds", lambda *_: {"x": np.zeros(99)})
    with pytest.raises(OutOfMemory):
        counts_of(counting, pixels, noise)


def test_model_keeps_its_bytes() -> None:
    model = loaded()
    before = model.proto.SerializeToString(deterministic=True)
    open_counting(model, PLAIN, images().pixels, ONE_THREAD)
    assert model.proto.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(model.proto)
