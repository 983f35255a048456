"""The data that settings are compared on, in two parts: one to choose, one to report.

A setting that was picked because it did best on some images does worse on others, by chance
alone. So what is reported of the chosen setting comes from samples that took no part in the
choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from lipcompile import model_io
from lipcompile.calibration.probes import Probe
from lipcompile.errors import DataError, ModelError, OptionError
from lipcompile.labelled import LabelledImages
from lipcompile.labelled.classifier import open_classifier
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import RuntimeOptions, Session, open_session
from lipcompile.scores import score_output

_TRIED = 8  # images a classifier is tried on when it is opened


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What one model says of the samples.

    Attributes:
        session: The model in ONNX Runtime.
        classes: int64 [N], the class with the highest score; -1 where a score is NaN.
        feeds: The first sample, or the first that fill a fixed batch, to time the model on.
        count: How many classes there are.
    """

    session: Session
    classes: np.ndarray
    feeds: Mapping[str, np.ndarray]
    count: int


class Examples(Protocol):
    """Samples to run models on."""

    @property
    def labels(self) -> np.ndarray | None:
        """int64 [N], where they are known."""

    @property
    def count(self) -> int:
        """How many samples there are."""

    def run(self, model: LoadedModel) -> Run:
        """Runs `model`, the original or a hardened one, on all of them."""

    def to_json(self) -> dict[str, Any]:
        """What was read."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Images with labels.

    Attributes:
        images: Pixels, labels, and how pixels become inputs.
        options: Where models run.
        scores: The output with the class scores; None finds it.
        batch: Images per run.
    """

    images: LabelledImages
    options: RuntimeOptions
    scores: str | None
    batch: int

    @property
    def labels(self) -> np.ndarray:
        return self.images.labels

    @property
    def count(self) -> int:
        return len(self.images.labels)

    def run(self, model: LoadedModel) -> Run:
        pixels = self.images.pixels
        opened, _ = open_classifier(
            model,
            self.images.normalisation,
            pixels[:_TRIED],
            self.options,
            output=self.scores,
            batch=self.batch,
        )
        classes = _classes(opened.scores(pixels))
        self.images.check_labels(opened.classes, model.name)
        return Run(opened.session, classes, opened.feeds(pixels[:1]), opened.classes)

    def to_json(self) -> dict[str, Any]:
        images = self.images
        return {
            "name": images.label,
            "images": len(images.labels),
            "available": images.available,
            "digest": images.digest,
            "normalisation": images.normalisation.to_json(),
            "labelled": True,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Unlabelled:
    """Samples of any kind, of which only the original's answer is known.

    Attributes:
        probes: Feeds.
        options: Where models run.
        scores: The output with the class scores; None finds it.
        record: What was read, for `to_json`.
    """

    probes: Sequence[Probe]
    options: RuntimeOptions
    scores: str | None
    record: dict[str, Any]

    @property
    def labels(self) -> None:
        return None

    @property
    def count(self) -> int:
        return sum(probe.count for probe in self.probes)

    def run(self, model: LoadedModel) -> Run:
        source = model.path or model_io.serialize(model.proto)
        session = open_session(source, self.options, model.base_dir)
        name = score_output(model, self.scores).name
        found, width = [], 0
        for probe in self.probes:
            scores = np.asarray(session.run([name], probe.feeds)[name], np.float64)
            rows = probe.count + probe.padding
            if scores.ndim < 2 or len(scores) != rows or scores[0].size != scores.shape[1]:
                raise ModelError(
                    f"output '{name}' of '{model.name}' has shape {list(scores.shape)} for "
                    f"{probe.count} samples, which is not one row of class scores per sample: "
                    "a sweep compares the answers of classifiers; name another output with "
                    "--scores"
                )
            width = scores.shape[1]
            if width < 2:
                raise ModelError(
                    f"output '{name}' of '{model.name}' has one value per sample: a sweep "
                    "compares the answers of classifiers, with a score for each of two or "
                    "more classes"
                )
            found.append(_classes(scores[: probe.count].reshape(probe.count, width)))
        first = next(self.probes[0].divided(1, fixed=model.has_fixed_batch))
        return Run(session, np.concatenate(found), first, width)

    def to_json(self) -> dict[str, Any]:
        return {**self.record, "normalisation": None, "labelled": False}


def _classes(scores: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Which samples choose and which report.

    Attributes:
        choosing: Rising indices.
        reporting: The other ones, rising.
        seed: What they were drawn by.
    """

    choosing: np.ndarray
    reporting: np.ndarray
    seed: int

    @classmethod
    def of(cls, count: int, seed: int) -> Parts:
        """Two halves, drawn by `seed`; the larger one reports.

        Raises:
            OptionError: The seed is negative.
            DataError: There are too few samples to divide.
        """
        if seed < 0:
            raise OptionError(f"seed = {seed} is negative: give 0 or more")
        if count < 2:
            raise DataError(
                f"the data has {count} usable sample, and settings are chosen on one part of "
                "it and reported on another: give two or more, and hundreds to learn something"
            )
        order = np.random.default_rng(seed).permutation(count)
        return cls(np.sort(order[: count // 2]), np.sort(order[count // 2 :]), seed)

    def some(self, count: int) -> np.ndarray:
        """At most `count` of the choosing part: drawn, since data is often sorted by class."""
        order = np.random.default_rng(self.seed).permutation(len(self.choosing))
        return self.choosing[np.sort(order[:count])]
