"""What `open_labelled` was asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipcompile.calibration.preprocess.config import Config
from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.sources.picking import pick_subset
from lipcompile.errors import DataError
from lipcompile.labelled.class_names import ClassNames
from lipcompile.labelled.normalisation import Normalisation
from lipcompile.signature import TensorSpec

Labels = str | os.PathLike[str] | np.ndarray | Sequence[int]


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of `open_labelled`, checked.

    Attributes:
        spec: The model's input, from `check_input`.
        model: Name of the model, for messages.
        num_classes: How many outputs it has, where that is known.
        samples: At most so many images.
        seed: Of the subset.
        preprocess: As in `resolve_transform`; likewise `flags`.
        flags: Keyword arguments of `resolve`.
        labels: Labels apart from the data.
        classes: Names of the classes.
    """

    spec: TensorSpec
    model: str
    num_classes: int | None
    samples: int | None
    seed: int
    preprocess: Preprocess | Config | None
    flags: Mapping[str, Any]
    labels: Labels | None
    classes: ClassNames | None

    def pick(self, count: int) -> list[int]:
        """Which of `count` images are read."""
        return list(pick_subset(count, samples=self.samples, seed=self.seed))

    @property
    def layout(self) -> str | None:
        """The layout, where it was given."""
        if isinstance(self.preprocess, Preprocess):
            return self.preprocess.layout
        layout: str | None = self.flags.get("layout")
        return layout

    def normalisation(
        self, transform: Preprocess, shape: tuple[int, ...] | None
    ) -> Normalisation:
        """The arithmetic of a transform; raises DataError where the input cannot hold it."""
        rule = Normalisation.of(transform, shape)
        largest = max(map(abs, rule.limits))
        if not largest <= float(np.finfo(rule.dtype).max):
            raise DataError(
                f"pixels become values up to {largest:.4g}, which input '{self.spec}' cannot"
                " hold: check --rescale, --mean and --std"
            )
        return rule
