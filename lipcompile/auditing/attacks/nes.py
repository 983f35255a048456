"""NES: gradients estimated from evaluations alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from lipcompile.auditing.attacks.base import (
    Attack,
    keep_best,
    margin,
    project,
    rows,
    unit,
)
from lipcompile.auditing.budget import Budget


@dataclass(frozen=True, slots=True)
class NES(Attack):
    """PGD on the margin with gradients from antithetic Gaussian samples (Ilyas et al. 2018,
    arXiv 1804.08598).

        g = 1 / (2 n sigma) * sum over i of u_i * (L(x + sigma u_i) - L(x - sigma u_i))

    Attributes:
        steps: Ascent steps.
        pairs: Antithetic pairs per step; an image costs steps * (2 * pairs + 1) evaluations.
        sigma: Standard deviation of the samples, in pixel units.
        step: Length of a step in units of eps.
    """

    name: ClassVar[str] = "nes"
    black_box: ClassVar[bool] = True

    steps: int = 20
    pairs: int = 10
    sigma: float = 0.01
    step: float = 0.25

    def run(
        self,
        model: torch.nn.Module,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        budget: Budget,
        start: torch.Tensor | None,
    ) -> torch.Tensor:
        points, best = pixels, pixels
        best_margin = torch.full_like(labels, -torch.inf, dtype=pixels.dtype)
        for _ in range(self.steps):
            gradient = torch.zeros_like(pixels)
            for _ in range(self.pairs):
                noise = torch.randn_like(pixels)
                ahead = margin(model(points + self.sigma * noise), labels)
                behind = margin(model(points - self.sigma * noise), labels)
                gradient += noise * rows(ahead - behind, pixels)
            step = self.step * budget.eps * unit(gradient, budget.norm)
            points = project(points + step, pixels, budget)
            reached = margin(model(points), labels)
            best, best_margin = keep_best(best, best_margin, points, reached)
        return best
