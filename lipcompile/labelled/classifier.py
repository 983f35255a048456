"""A deployed file as a classifier of pixels, run by ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lipcompile import model_io
from lipcompile.errors import ModelError, NonFiniteError, RunFailure
from lipcompile.labelled.normalisation import Normalisation
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import RuntimeOptions, Session, open_session
from lipcompile.scores import score_output


@dataclass(slots=True)
class Classifier:
    """One model, as it is deployed.

    Attributes:
        model: The model.
        session: ONNX Runtime on the very file.
        normalisation: How pixels become its input.
        output: Name of the graph output with the class scores.
        batch: Images per run; the model's own where it is fixed.
        classes: Number of scores per image, once something was run.
    """

    model: LoadedModel
    session: Session
    normalisation: Normalisation
    output: str
    batch: int
    classes: int = 0

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """Class scores: float64 [N, K] for float32 [N, C, H, W].

        Raises:
            ModelError: The output is not one row of scores per image.
        """
        rows = [np.zeros((0, self.classes))]
        for start in range(0, len(pixels), self.batch):
            rows.append(self._run(pixels[start : start + self.batch]))
            self.classes = rows[-1].shape[1]
        return np.concatenate(rows if self.classes == rows[0].shape[1] else rows[1:])

    def feeds(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """What the model takes for these images; the last one fills a fixed batch."""
        spec, feed = self.model.inputs[0], self.normalisation(pixels)
        if spec.fixed_batch is not None and spec.fixed_batch > len(feed):
            padding = np.repeat(feed[-1:], spec.fixed_batch - len(feed), axis=0)
            feed = np.concatenate([feed, padding])
        return {spec.name: feed}

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        count, feeds = len(pixels), self.feeds(pixels)
        (feed,) = feeds.values()
        scores = self.session.run([self.output], feeds)[self.output]
        scores = np.asarray(scores, np.float64)
        if scores.ndim < 2 or len(scores) != len(feed) or scores[0].size != scores.shape[1]:
            raise ModelError(
                f"output '{self.output}' of '{self.model.name}' has shape "
                f"{list(scores.shape)} for {len(feed)} images, which is not one row of class "
                "scores per image: only classifiers can be used here; name another output "
                "with --scores"
            )
        flat: np.ndarray = scores.reshape(len(feed), -1)
        return flat[:count]


def open_classifier(
    model: LoadedModel,
    normalisation: Normalisation,
    pixels: np.ndarray,
    options: RuntimeOptions,
    *,
    output: str | None = None,
    batch: int = 64,
) -> tuple[Classifier, np.ndarray]:
    """Opens a classifier and tries it.

    Args:
        model: The model.
        normalisation: How pixels become its input.
        pixels: Images to try, float32 [N, C, H, W].
        options: Providers and threads.
        output: The output with the class scores; None finds it.
        batch: Images per run, where the model does not fix it.

    Returns:
        The classifier, and its scores for `pixels`.

    Raises:
        ModelError: It is no classifier, or ONNX Runtime does not load it.
        NonFiniteError: The scores of an image are NaN.
    """
    session = open_session(
        model.path or model_io.serialize(model.proto), options, model.base_dir
    )
    fixed = model.inputs[0].fixed_batch
    name = score_output(model, output).name
    opened = Classifier(model, session, normalisation, name, fixed or batch)
    try:
        scores = opened.scores(pixels)
    except RunFailure:
        if opened.batch == 1 or fixed is not None:
            raise
        opened.batch = 1  # the batch axis is declared dynamic and is not
        scores = opened.scores(pixels)
    if scores.shape[1] < 2:
        raise ModelError(
            f"output '{name}' of '{model.name}' has one value per image: only classifiers "
            "with a score for each of two or more classes can be used here"
        )
    if np.isnan(scores).any():
        raise NonFiniteError(
            f"'{model.name}' gives NaN as class scores: check the preprocessing (--mean, "
            "--std, --preprocess)"
        )
    return opened, scores


def is_right(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """bool [N]: the label has the highest of its row's scores, and none is NaN."""
    right: np.ndarray = (scores.argmax(axis=1) == labels) & ~np.isnan(scores).any(axis=1)
    return right
