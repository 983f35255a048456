"""Opens a model for counting, on as many noisy images at a time as give the right scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lipcompile.certifying.smoothing.counting import CountingModel
from lipcompile.certifying.smoothing.graph import counting_graph
from lipcompile.ensembles.one_batch import mixes_images
from lipcompile.errors import ModelError, OutOfMemory, RunFailure
from lipcompile.labelled.classifier import Classifier, open_classifier
from lipcompile.labelled.normalisation import Normalisation
from lipcompile.model_io import LoadedModel
from lipcompile.passes.lift_batch import lift_batch
from lipcompile.runtime import RuntimeOptions, open_session

_VALUES = 1 << 16  # in the noise of one run on the CPU: what follows should stay in its cache
_LEAST_ROWS, _MOST_ROWS = 8, 64
_ON_A_DEVICE = 16  # times as many rows
_TRIED = 4  # rows that are compared with the model run on each alone
_TRY_SIGMA = 0.5  # in pixel units: rows far apart, so that one that sees another is noticed
_SAME = 1e-3  # of the largest score


def open_counting(
    model: LoadedModel,
    normalisation: Normalisation,
    pixels: np.ndarray,
    options: RuntimeOptions,
    *,
    scores: str | None = None,
    batch: int | None = None,
) -> CountingModel:
    """Opens a classifier for counting.

    A row must not depend on the others of its batch, or f would be no function of one image.
    So batches are kept only where the scores of their rows agree with those of the model as it
    is, run on each row alone; a fixed batch is lifted where that holds, too.

    Args:
        model: The classifier.
        normalisation: How pixels become its input.
        pixels: A few images to try, float32 [N, C, H, W].
        options: Providers and threads.
        scores: The output with the class scores; None finds it.
        batch: Rows per run; None chooses.

    Raises:
        ModelError: It is no classifier, or a row depends on the other rows of its batch.
        NonFiniteError: The scores of an image are NaN.
    """
    plain, _ = open_classifier(
        model, normalisation, pixels[:_TRIED], options, output=scores, batch=1
    )
    least = model.inputs[0].fixed_batch or 1
    wanted = batch or _rows_for(pixels[0].size, options)
    for proto, rows in _tries(model, wanted, least):
        counting = _opened(plain, proto, pixels[0].shape, rows, options)
        if counting is None or not _agrees(counting, plain, pixels[0]):
            continue
        counting.is_fixed = rows == least
        if rows == least and least < (batch or 2):
            counting.notes.append(
                f"'{model.name}' is run on {rows} noisy image{'s' * (rows > 1)} at a time: on "
                "larger batches it does not run, or gives other scores"
            )
        return counting
    raise ModelError(
        f"'{model.name}' gives an image other scores when other images are in its batch of "
        f"{least}: it is no function of one image, so nothing can be certified; export it "
        "without layers that mix a batch"
    )


def _tries(model: LoadedModel, wanted: int, least: int) -> Iterator[tuple[Any, int]]:
    """Protos and numbers of rows, the best first; the last is the model as it was exported."""
    if wanted > least and not any(mixes_images(node) for node in model.graph_ir.graph):
        yield model.proto, wanted
        if (lifted := lift_batch(model)) is not None:
            yield lifted, wanted
    yield model.proto, least


def _rows_for(values: int, options: RuntimeOptions) -> int:
    rows = 1 << max((_VALUES // values).bit_length() - 1, 0)
    rows = min(max(rows, _LEAST_ROWS), _MOST_ROWS)
    return rows if options.providers[0].lower().startswith("cpu") else rows * _ON_A_DEVICE


def _opened(
    plain: Classifier,
    proto: Any,
    dims: tuple[int, ...],
    rows: int,
    options: RuntimeOptions,
) -> CountingModel | None:
    """None where ONNX Runtime does not load the model in the graph that counts."""
    model = plain.model
    built = counting_graph(model, proto, plain.output, plain.classes)
    try:
        session = open_session(built, options, model.base_dir)
    except ModelError:
        if proto is model.proto and rows == (model.inputs[0].fixed_batch or 1):
            raise
        return None
    shape = plain.normalisation(np.zeros((1, *dims), np.float32)).shape[1:]
    rule = plain.normalisation
    return CountingModel(session, rule, shape, plain.output, plain.classes, rows)


def _agrees(counting: CountingModel, plain: Classifier, pixels: np.ndarray) -> bool:
    """Whether rows in a batch get the scores of the model run on each alone."""
    rows, wide = counting.rows, counting.image_of(pixels)
    sigma = counting.sigma_of(_TRY_SIGMA, pixels.shape)
    noise = np.random.default_rng(0).standard_normal((rows, *counting.shape), np.float32)
    try:
        batched = counting.scores(wide, noise, sigma)
    except OutOfMemory:
        if rows <= _LEAST_ROWS:
            raise
        counting.rows = rows // 2
        return _agrees(counting, plain, pixels)
    except (RunFailure, ValueError):  # the batch stands in a Reshape, ...
        return False
    if batched.shape != (rows, counting.classes):
        return False
    chosen = np.unique(np.linspace(0, rows - 1, _TRIED).astype(int))
    noisy = wide + noise[chosen].astype(wide.dtype) * sigma
    noisy = noisy.astype(counting.normalisation.dtype)
    alone = np.concatenate([_alone(plain, row) for row in noisy])
    scale = float(np.abs(alone[np.isfinite(alone)]).max(initial=1e-30))
    same = np.isclose(batched[chosen], alone, rtol=0, atol=_SAME * scale, equal_nan=True)
    return bool(same.all())


def _alone(plain: Classifier, row: np.ndarray) -> np.ndarray:
    """Scores of the deployed file for one input, which fills a fixed batch: float64 [1, K]."""
    spec = plain.model.inputs[0]
    feed = np.repeat(row[None], spec.fixed_batch or 1, axis=0)
    found = plain.session.run([plain.output], {spec.name: feed})[plain.output]
    result: np.ndarray = np.asarray(found, np.float64).reshape(len(feed), -1)[:1]
    return result
