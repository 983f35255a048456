"""Labelled images, as attacks take them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lipcompile.errors import DataError
from lipcompile.labelled.normalisation import Normalisation


@dataclass(frozen=True, slots=True, eq=False)  # == on arrays has no single truth value
class LabelledImages:
    """Images with the index of their class.

    Attributes:
        pixels: float32 [N, C, H, W] in [0, 1], before normalisation; RGB or grey, N >= 1.
        labels: int64 [N], the index of the class in the model's output.
        names: One per image, for messages: a relative path, or "test.npz[17]".
        normalisation: How pixels become the model's input.
        label: Base name of the data.
        available: How many labelled images the data holds; N of them are here.
        classes: Class names by index, where they are known.
        digest: "sha256:<hex>" of pixels and labels, in order.
    """

    pixels: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    normalisation: Normalisation
    label: str
    available: int
    classes: tuple[str, ...] | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        count = len(self.pixels)
        assert count and count == len(self.labels) == len(self.names) <= self.available
        assert self.pixels.dtype == np.float32 and self.labels.dtype == np.int64
        object.__setattr__(self, "digest", _digest(self.pixels, self.labels))

    def subset(self, rows: np.ndarray) -> LabelledImages:
        """Those of the images whose indices are in `rows`, in this order."""
        names = tuple(self.names[row] for row in rows)
        return replace(self, pixels=self.pixels[rows], labels=self.labels[rows], names=names)

    def check_labels(self, classes: int, model: str) -> None:
        """Every label has a score.

        Args:
            classes: How many scores the model gives.
            model: Its name.

        Raises:
            DataError: One has none.
        """
        largest = int(self.labels.max())
        if largest >= classes:
            where = self.names[int(self.labels.argmax())]
            raise DataError(
                f"label {largest} of '{where}' has no score: '{model}' gives {classes} "
                f"scores, for labels 0 to {classes - 1}; check the labels"
            )

    def to_json(self) -> dict[str, Any]:
        """What was read and how, without the images."""
        return {
            "label": self.label,
            "samples": len(self.pixels),
            "available": self.available,
            "shape": list(self.pixels.shape[1:]),
            "digest": self.digest,
            "classes": None if self.classes is None else list(self.classes),
            "normalisation": self.normalisation.to_json(),
        }

    def to_record(self) -> dict[str, Any]:
        """What results that rest on these images say of them."""
        return {
            "name": self.label,
            "images": len(self.labels),
            "available": self.available,
            "digest": self.digest,
            "normalisation": self.normalisation.to_json(),
        }

    def __str__(self) -> str:
        channels, height, width = self.pixels.shape[1:]
        share = "" if len(self.pixels) == self.available else f" of {self.available}"
        return (
            f"{len(self.pixels)}{share} labelled images of '{self.label}',"
            f" {channels}x{height}x{width}"
        )


def _digest(pixels: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(f"lipcompile.labelled/1 {pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels, "<f4").data)
    digest.update(np.ascontiguousarray(labels, "<i8").data)
    return "sha256:" + digest.hexdigest()
