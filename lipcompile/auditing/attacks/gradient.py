"""FGSM and PGD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F

from lipcompile.auditing.attacks.base import Attack, margin, project, random_start, unit
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
class PGD(Attack):
    """Projected gradient ascent on the cross-entropy, from a random start (Madry et al. 2018).

    Attributes:
        steps: Gradient steps.
        step: Length of a step in units of eps.
    """

    name: ClassVar[str] = "pgd"

    steps: int = 20
    step: float = 0.1

    def run(
        self,
        model: torch.nn.Module,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        budget: Budget,
        start: torch.Tensor | None,
    ) -> torch.Tensor:
        length = self.step * budget.eps
        return _climb(model, pixels, labels, budget, start, "ce", self.steps, length)


@dataclass(frozen=True, slots=True)
class MarginPGD(Attack):
    """PGD on the margin, max over j != y of z_j, minus z_y: the CW loss (Carlini & Wagner
    2017), which scaled logits do not saturate. It starts where it is told, or at random.

    Attributes:
        steps: Gradient steps.
        step: Length of a step in units of eps.
    """

    name: ClassVar[str] = "margin-pgd"

    steps: int = 40
    step: float = 0.05

    def run(
        self,
        model: torch.nn.Module,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        budget: Budget,
        start: torch.Tensor | None,
    ) -> torch.Tensor:
        length = self.step * budget.eps
        return _climb(model, pixels, labels, budget, start, "margin", self.steps, length)


def _climb(
    model: torch.nn.Module,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    budget: Budget,
    start: torch.Tensor | None,
    loss: Loss,
    steps: int,
    length: float,
) -> torch.Tensor:
    """Each image's point of highest margin on the way, so that no step loses a success."""
    points = random_start(pixels, budget) if start is None else start
    best, best_margin = points, torch.full_like(labels, -torch.inf, dtype=pixels.dtype)
    for _ in range(steps):
        reached, gradient = _ascent(model, points, labels, loss)
        best, best_margin = _keep(best, best_margin, points, reached)
        points = project(points + length * unit(gradient, budget.norm), pixels, budget)
    with torch.no_grad():
        reached = margin(model(points), labels)
    return _keep(best, best_margin, points, reached)[0]


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


def _keep(
    best: torch.Tensor, best_margin: torch.Tensor, points: torch.Tensor, reached: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    better = reached > best_margin
    rows = better.reshape(-1, *[1] * (points.ndim - 1))
    return torch.where(rows, points, best), torch.where(better, reached, best_margin)
