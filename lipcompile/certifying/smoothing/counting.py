"""A deployed model that counts its answers to noisy copies of one image.

Noise, model, argmax and counting run in one session (`graph.py`), from which K integers come.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from lipcompile.certifying.smoothing.graph import (
    COUNTED,
    COUNTS,
    IMAGE,
    NOISE,
    SIGMA,
    counting_graph,
    wide_dtype,
)
from lipcompile.ensembles.one_batch import mixes_images
from lipcompile.errors import ModelError, OutOfMemory, RunFailure
from lipcompile.labelled.classifier import Classifier, open_classifier
from lipcompile.labelled.normalisation import Normalisation
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import RuntimeOptions, Session, open_session

_VALUES = 1 << 20  # in the noise of one run on the CPU: larger ones leave the cache
_LEAST_ROWS, _MOST_ROWS = 8, 64
_ON_A_DEVICE = 8  # times as many rows
_TRIED = 4  # rows that are compared with the model run on each alone
_TRY_SIGMA = 0.5  # in pixel units: rows far apart, so that one that sees another is noticed
_SAME = 1e-3  # of the largest score


@dataclass(slots=True)
class CountingModel:
    """A session that counts.

    Attributes:
        session: Of the graph of `graph.py`.
        normalisation: How pixels become the model's input.
        shape: Of the input without its batch axis.
        output: Name of the scores.
        classes: K.
        rows: Noisy images per run; halved when memory runs out.
        is_fixed: Whether the model runs on no other number of rows.
        notes: What a reader of the result has to know.
    """

    session: Session
    normalisation: Normalisation
    shape: tuple[int, ...]
    output: str
    classes: int
    rows: int
    is_fixed: bool = False
    notes: list[str] = field(default_factory=list)

    def count(self, image: np.ndarray, noise: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """How often each class won: int64 [K]. NaN scores count for none.

        Args:
            image: From `image_of`.
            noise: Standard normals, float32 [N, *shape].
            sigma: From `sigma_of`.

        Raises:
            OutOfMemory: Not even one row fits.
            RunFailure: The model does not run on this.
        """
        total, start = np.zeros(self.classes, np.int64), 0
        while start < len(noise):
            rows = self.rows
            try:
                feeds = self._feeds(image, noise[start : start + rows], sigma, rows)
                total += self.session.run([COUNTS], feeds)[COUNTS]
            except OutOfMemory:
                if rows == 1 or self.is_fixed:
                    raise
                self.rows = max(1, min(self.rows, rows // 2))  # another thread may have, too
            else:
                start += rows
        return total

    def scores(self, image: np.ndarray, noise: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """The scores themselves, float64 [N, K], for up to `rows` rows of noise."""
        feeds = self._feeds(image, noise, sigma, self.rows)
        found = self.session.run([self.output], feeds)[self.output]
        result: np.ndarray = np.asarray(found, np.float64).reshape(self.rows, -1)[: len(noise)]
        return result

    def image_of(self, pixels: np.ndarray) -> np.ndarray:
        """One image as `count` takes it: [1, *shape] from float32 [C, H, W]."""
        wide = replace(self.normalisation, dtype=wide_dtype(self.normalisation.dtype))
        return wide(pixels[None])

    def sigma_of(self, sigma: float, dims: tuple[int, ...]) -> np.ndarray:
        """The factor on the noise, [1, *shape], for a sigma in pixel units."""
        return input_sigma(self.normalisation, sigma, dims)

    def _feeds(
        self, image: np.ndarray, noise: np.ndarray, sigma: np.ndarray, rows: int
    ) -> dict[str, np.ndarray]:
        counted = np.zeros((rows, 1), np.float32)
        counted[: len(noise)] = 1
        if len(noise) < rows:  # rows that fill the batch up and do not count
            filled = np.zeros((rows, *noise.shape[1:]), np.float32)
            filled[: len(noise)] = noise
            noise = filled
        return {IMAGE: image, NOISE: noise, SIGMA: sigma, COUNTED: counted}


def input_sigma(
    normalisation: Normalisation, sigma: float, dims: tuple[int, ...]
) -> np.ndarray:
    """sigma * scale / std of the channel, in the layout of the model's input: [1, *shape].

    Args:
        normalisation: How pixels become the model's input.
        sigma: In pixel units.
        dims: (channels, height, width) of the pixels.
    """
    std = np.array(normalisation.std)[:, None, None]
    values = np.broadcast_to(sigma * normalisation.scale / std, dims)
    if normalisation.layout == "NHWC":
        values = values.transpose(1, 2, 0)
    if normalisation.shape is not None:
        values = values.reshape(normalisation.shape)
    return np.ascontiguousarray(values[None], wide_dtype(normalisation.dtype))


def open_counting(
    model: LoadedModel,
    normalisation: Normalisation,
    pixels: np.ndarray,
    options: RuntimeOptions,
    *,
    scores: str | None = None,
    batch: int | None = None,
) -> CountingModel:
    """Opens a classifier for counting, with as many rows per run as are right.

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
    built = counting_graph(model, plain.output, plain.classes)
    counting = CountingModel(
        open_session(built, options, model.base_dir),
        normalisation,
        normalisation(pixels[:1]).shape[1:],
        plain.output,
        plain.classes,
        1,
    )
    least = model.inputs[0].fixed_batch or 1
    for rows in _tries(model, batch or _rows_for(pixels[0].size, options), least):
        counting.rows = rows
        if _agrees(counting, plain, pixels[0]):
            counting.is_fixed = rows == least
            if rows == least and least < (batch or 2):
                counting.notes.append(
                    f"'{model.name}' is run on {rows} noisy image{'s' * (rows > 1)} at a "
                    "time: on larger batches it does not run, or gives other scores"
                )
            return counting
    raise ModelError(
        f"'{model.name}' gives an image other scores when other images are in its batch of "
        f"{least}: it is no function of one image, so nothing can be certified; export it "
        "without layers that mix a batch"
    )


def _tries(model: LoadedModel, wanted: int, least: int) -> Iterator[int]:
    """Numbers of rows, the best first; the last is what the model was exported with."""
    if wanted > least and not any(mixes_images(node) for node in model.graph_ir.graph):
        yield wanted
    yield least


def _rows_for(values: int, options: RuntimeOptions) -> int:
    rows = min(max(1 << int(math.log2(_VALUES / values)), _LEAST_ROWS), _MOST_ROWS)
    return rows if options.providers[0].lower().startswith("cpu") else rows * _ON_A_DEVICE


def _agrees(counting: CountingModel, plain: Classifier, pixels: np.ndarray) -> bool:
    """Whether rows in a batch get the scores of the model run on each alone."""
    rows, wide = counting.rows, counting.image_of(pixels)
    sigma = counting.sigma_of(_TRY_SIGMA, pixels.shape)
    noise = np.random.default_rng(0).standard_normal((rows, *counting.shape), np.float32)
    try:
        batched = counting.scores(wide, noise, sigma)
    except OutOfMemory:
        raise
    except (RunFailure, ValueError):  # the batch stands in a Reshape, ...
        return False
    if batched.shape != (rows, counting.classes):
        return False
    chosen = np.unique(np.linspace(0, rows - 1, _TRIED).astype(int))
    noisy = (wide + noise[chosen].astype(wide.dtype) * sigma).astype(
        counting.normalisation.dtype
    )
    alone = np.concatenate([_alone(plain, row) for row in noisy])
    scale = max(float(np.nanmax(np.abs(alone), initial=0.0)), 1e-30)
    return bool(
        np.allclose(batched[chosen], alone, rtol=0, atol=_SAME * scale, equal_nan=True)
    )


def _alone(plain: Classifier, row: np.ndarray) -> np.ndarray:
    """Scores of the deployed file for one input, which fills a fixed batch: float64 [1, K]."""
    spec = plain.model.inputs[0]
    feed = np.repeat(row[None], spec.fixed_batch or 1, axis=0)
    found = plain.session.run([plain.output], {spec.name: feed})[plain.output]
    result: np.ndarray = np.asarray(found, np.float64).reshape(len(feed), -1)[:1]
    return result
