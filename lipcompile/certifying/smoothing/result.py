"""What `smooth` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lipcompile.certifying.smoothing.options import SmoothingOptions
from lipcompile.certifying.smoothing.outcome import Outcome


@dataclass(frozen=True, slots=True, eq=False)
class SmoothingRun:
    """What `smooth` found.

    Attributes:
        options: What was asked.
        outcomes: One per image, in order.
        labels: int64 [N], the true classes.
        output: Name of the scores.
        notes: What a reader has to know.
        seconds: Wall time of this run alone.
        draws: Noisy images that the outcomes rest on, of all runs.
    """

    options: SmoothingOptions
    outcomes: tuple[Outcome, ...]
    labels: np.ndarray
    output: str
    notes: tuple[str, ...]
    seconds: float
    draws: int

    @property
    def right(self) -> np.ndarray:
        """bool [N]: the smoothed model's class is known and true."""
        labels = self.labels.tolist()
        return np.array([o.label == y for o, y in zip(self.outcomes, labels, strict=True)])

    @property
    def radii_l2(self) -> np.ndarray:
        """float64 [N]: certified radius in pixel units; 0 where the class is not true."""
        radii = np.array([outcome.radius_l2 for outcome in self.outcomes])
        return np.where(self.right, radii, 0.0)

    def certified_accuracy(self, eps: float) -> float:
        """Share of the images with the true class on the whole l2 ball of radius eps > 0."""
        return float((self.right & (self.radii_l2 >= eps)).mean())

    def to_json(self) -> dict[str, Any]:
        return {
            "options": self.options.to_json(),
            "outcomes": [outcome.to_json() for outcome in self.outcomes],
            "labels": self.labels.tolist(),
            "scores": self.output,
            "notes": list(self.notes),
            "seconds": round(self.seconds, 1),
            "draws": self.draws,
        }
