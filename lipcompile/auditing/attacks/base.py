"""What an attack is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, final

import torch

from lipcompile.auditing.budget import Budget


@dataclass(frozen=True, slots=True)
class Attack(ABC):
    """Searches adversarial examples; its fields are its settings.

    An attack returns candidates and no verdict: `judge.judge` moves them into the budget
    and has ONNX Runtime classify them.
    """

    name: ClassVar[str]
    black_box: ClassVar[bool] = False  # asks the deployed file for logits, no gradient

    @abstractmethod
    def run(
        self,
        model: torch.nn.Module,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        budget: Budget,
        start: torch.Tensor | None,
    ) -> torch.Tensor:
        """Candidates for one batch.

        torch's random numbers are seeded by the caller, per batch.

        Args:
            model: Pixels to logits [N, K]; differentiable unless `black_box`.
            pixels: float32 [N, C, H, W] in [0, 1].
            labels: int64 [N].
            budget: Norm and radius.
            start: Where to start, in the shape of `pixels`, for attacks that can.

        Returns:
            One candidate per image, in the shape of `pixels`.
        """

    @final
    def settings(self) -> dict[str, Any]:
        """Name and fields, for provenance."""
        return {"attack": self.name, **asdict(self)}


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """max over j != y of z_j, minus z_y; [N]. Above 0 the image is misclassified."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others: torch.Tensor = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return others - own


def rows(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """One value per image, shaped to broadcast over its pixels."""
    return values.reshape(-1, *[1] * (images.ndim - 1))


def keep_best(
    best: torch.Tensor, best_margin: torch.Tensor, points: torch.Tensor, reached: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each image's point of highest margin so far, and that margin."""
    better = reached > best_margin
    kept = torch.where(rows(better, points), points, best)
    return kept, torch.where(better, reached, best_margin)


def random_start(pixels: torch.Tensor, budget: Budget) -> torch.Tensor:
    """A point in the budget: uniform for linf; for l2 a random direction and radius."""
    if budget.norm == "linf":
        noise = (2 * torch.rand_like(pixels) - 1) * budget.eps
    else:
        radius = rows(torch.rand(len(pixels), device=pixels.device), pixels)
        noise = unit(torch.randn_like(pixels), "l2") * radius * budget.eps
    return (pixels + noise).clamp(0.0, 1.0)


def unit(direction: torch.Tensor, norm: str) -> torch.Tensor:
    """The steepest step of length 1 along `direction`; 0 where it is 0."""
    if norm == "linf":
        return direction.sign()
    steepest: torch.Tensor = direction / _length(direction)
    return steepest


def project(points: torch.Tensor, pixels: torch.Tensor, budget: Budget) -> torch.Tensor:
    """The points moved into the budget and into [0, 1], to float32's rounding."""
    if budget.norm == "linf":
        points = torch.clamp(points, pixels - budget.eps, pixels + budget.eps)
    else:
        delta = points - pixels
        points = pixels + delta * (budget.eps / _length(delta)).clamp_max(1.0)
    return points.clamp(0.0, 1.0)


def _length(delta: torch.Tensor) -> torch.Tensor:
    """The l2 norm of each image, never 0, shaped to broadcast over its pixels."""
    return rows(delta.flatten(1).norm(dim=1), delta).clamp_min(1e-12)
