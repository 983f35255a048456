"""Who decides that an attack succeeded: the budget, and ONNX Runtime on the deployed file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lipcompile.auditing.budget import Budget
from lipcompile.auditing.victim import Victim


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What became of the candidates of one attack.

    Attributes:
        inside: float32, the candidates as they were judged, within the budget and in [0, 1].
        broken: bool [N], misclassified by the deployed file (NaN scores are).
        size: float64 [N], distance from the image.
    """

    inside: np.ndarray
    broken: np.ndarray
    size: np.ndarray


def judge(
    victim: Victim,
    budget: Budget,
    pixels: np.ndarray,
    labels: np.ndarray,
    candidates: np.ndarray,
) -> Judgement:
    """Moves candidates into the budget, measures them, and runs the deployed file.

    Args:
        victim: The model.
        budget: Norm and radius.
        pixels: float32 [N, C, H, W] in [0, 1].
        labels: int64 [N].
        candidates: float32 in the shape of `pixels`.
    """
    inside = np.empty_like(pixels)
    broken, size = np.zeros(len(pixels), bool), np.zeros(len(pixels))
    for start in range(0, len(pixels), victim.batch):
        rows = slice(start, start + victim.batch)
        inside[rows] = budget.project(pixels[rows], candidates[rows])
        size[rows] = budget.size(pixels[rows], inside[rows])
        assert (size[rows] <= budget.eps).all()
        assert inside[rows].min() >= 0.0 and inside[rows].max() <= 1.0
        broken[rows] = ~victim.is_right(inside[rows], labels[rows])
    return Judgement(inside, broken, size)


class Deployed(torch.nn.Module):
    """The deployed file as attacks without gradients see it: pixels in, scores out."""

    def __init__(self, victim: Victim) -> None:
        super().__init__()
        self._victim = victim
        self._takes_log = victim.gives_probabilities  # walks the graph: not in every query

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        scores = self._victim.deployed(pixels.clamp(0.0, 1.0).numpy())
        if self._takes_log:
            scores = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
        return torch.from_numpy(np.nan_to_num(scores).astype(np.float32))
