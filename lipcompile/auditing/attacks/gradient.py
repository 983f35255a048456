"""FGSM and PGD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
import torch.nn.functional as F

from lipcompile.auditing.attacks.base import (
    Attack,
    keep_best,
    margin,
    project,
    random_start,
    unit,
)
from lipcompile.auditing.budget import Budget

Loss = Literal["ce", "margin"]


@dataclass(frozen=True, slots=True)
class FGSM(Attack):
    """One step of length eps along the gradient of the cross-entropy (Goodfellow et al.
    2015).
    """

    name: ClassVar[str] = "fgsm"

    def run(
        self,
        model: torch.nn.Module,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        budget: Budget,
        start: torch.Tensor | None,
    ) -> torch.Tensor:
        _, gradient = _ascent(model, pixels, labels, "ce")
        return project(pixels + budget.eps * unit(gradient, budget.norm), pixels, budget)


@dataclass(frozen=True, slots=True)
class _Ascent(Attack):
    """Projected gradient ascent, from where it is told or from a random start.

    An image keeps its point of highest margin on the way, so that no step loses a success.

    Attributes:
        steps: Gradient steps.
        step: Length of a step in units of eps.
    """

    loss: ClassVar[Loss]

    steps: int
    step: float

    @final
    def run(
        self,
        model: torch.nn.Module,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        budget: Budget,
        start: torch.Tensor | None,
    ) -> torch.Tensor:
        length = self.step * budget.eps
        points = random_start(pixels, budget) if start is None else start
        best, best_margin = points, torch.full_like(labels, -torch.inf, dtype=pixels.dtype)
        for _ in range(self.steps):
            reached, gradient = _ascent(model, points, labels, self.loss)
            best, best_margin = keep_best(best, best_margin, points, reached)
            points = project(points + length * unit(gradient, budget.norm), pixels, budget)
        with torch.no_grad():
            reached = margin(model(points), labels)
        return keep_best(best, best_margin, points, reached)[0]


@final
@dataclass(frozen=True, slots=True)
class PGD(_Ascent):
    """PGD on the cross-entropy (Madry et al. 2018)."""

    name: ClassVar[str] = "pgd"
    loss: ClassVar[Loss] = "ce"

    steps: int = 20
    step: float = 0.1


@final
@dataclass(frozen=True, slots=True)
class MarginPGD(_Ascent):
    """PGD on the margin, max over j != y of z_j, minus z_y: the CW loss (Carlini & Wagner
    2017), which scaled logits do not saturate.
    """

    name: ClassVar[str] = "margin-pgd"
    loss: ClassVar[Loss] = "margin"

    steps: int = 40
    step: float = 0.05


def _ascent(
    model: torch.nn.Module, points: torch.Tensor, labels: torch.Tensor, loss: Loss
) -> tuple[torch.Tensor, torch.Tensor]:
    """The margin [N] at the points, and the gradient of the loss there."""
    leaf = points.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
        reached = margin(logits, labels)
        total = reached.sum() if loss == "margin" else F.cross_entropy(logits, labels)
    (gradient,) = torch.autograd.grad(total, leaf)
    return reached.detach(), gradient
