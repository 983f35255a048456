"""Attacks find what there is to find, and no attack decides its own success."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from lipcompile.auditing.attacks import (
    APGDCE,
    APGDT,
    FABT,
    FGSM,
    NES,
    PGD,
    Attack,
    MarginPGD,
    Square,
)
from lipcompile.auditing.attacks.base import margin, random_start
from lipcompile.auditing.budget import Budget, Norm
from lipcompile.auditing.judge import judge
from lipcompile.auditing.seeds import seeded

ATTACKS = [
    FGSM(),
    PGD(),
    MarginPGD(steps=10, step=0.25),
    APGDCE(steps=20),
    APGDT(steps=10, targets=4),
    FABT(steps=10, targets=4),
    Square(queries=300),
    NES(steps=15),
]


class Linear(torch.nn.Module):
    """Five classes; the margin of an image within a budget is known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(5, 3 * 8 * 8, generator=generator) / 10

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - 0.5).flatten(1) @ self.weight.T

    def least_eps(self, pixels: torch.Tensor, labels: torch.Tensor, norm: str) -> torch.Tensor:
        """The radius at which each image, far from 0 and 1, is misclassified; [N]."""
        logits = self(pixels)
        gaps = logits.gather(1, labels[:, None]) - logits
        differences = self.weight[labels][:, None] - self.weight[None]
        lengths = differences.norm(p=1 if norm == "linf" else 2, dim=2)
        radii = gaps / lengths.clamp_min(1e-12)
        radii.scatter_(1, labels[:, None], torch.inf)
        return radii.amin(dim=1)


@pytest.fixture(scope="module")
def problem() -> tuple[Linear, torch.Tensor, torch.Tensor]:
    model = Linear()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(24, 3, 8, 8, generator=generator) * 0.2 + 0.4
    return model, pixels, model(pixels).argmax(dim=1)


def run(
    attack: Attack, problem: tuple[Linear, torch.Tensor, torch.Tensor], budget: Budget
) -> torch.Tensor:
    model, pixels, labels = problem
    with seeded(3):
        return attack.run(model, pixels, labels, budget, None)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_breaks_what_can_be_broken_and_nothing_else(
    attack: Attack, norm: Norm, problem: tuple[Linear, torch.Tensor, torch.Tensor]
) -> None:
    model, pixels, labels = problem
    radii = model.least_eps(pixels, labels, norm)
    budget = Budget(float(radii.median()), norm)
    found = run(attack, problem, budget)
    inside = torch.from_numpy(budget.project(pixels.numpy(), found.numpy()))
    wrong = model(inside).argmax(dim=1) != labels
    assert not wrong[radii > budget.eps * 1.001].any()
    # Attacks without gradients, or with one step, are granted a margin.
    exact = isinstance(attack, MarginPGD | APGDT | FABT)
    easy = radii < budget.eps * (0.95 if exact else 0.3)
    assert easy.any() and wrong[easy].all()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_same_seed_same_candidates_and_the_callers_random_state_is_left_alone(
    attack: Attack, problem: tuple[Linear, torch.Tensor, torch.Tensor]
) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, again = (run(attack, problem, Budget(0.02)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("attack", [PGD(), MarginPGD()], ids=lambda a: a.name)
def test_start_is_where_it_starts(
    attack: Attack, problem: tuple[Linear, torch.Tensor, torch.Tensor]
) -> None:
    model, pixels, labels = problem
    still = type(attack)(steps=1, step=0.0)  # type: ignore[call-arg]
    start = random_start(pixels, Budget(0.1))
    assert torch.equal(still.run(model, pixels, labels, Budget(0.1), start), start)


def test_margin_is_positive_exactly_for_misclassified_images() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    labels = torch.tensor([0, 2])
    assert margin(logits, labels).tolist() == [-1.0, 2.0]


@dataclass(frozen=True, slots=True)
class Cheat(Attack):
    """Returns images of another class, far outside the budget."""

    name: ClassVar[str] = "cheat"

    def run(
        self,
        model: torch.nn.Module,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        budget: Budget,
        start: torch.Tensor | None,
    ) -> torch.Tensor:
        return pixels.flip(0)


@dataclass
class FakeVictim:
    model: Linear
    batch: int = 7

    def is_right(self, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return self.model(torch.from_numpy(pixels)).argmax(dim=1).numpy() == labels


def test_no_attack_can_report_a_success_outside_its_budget(
    problem: tuple[Linear, torch.Tensor, torch.Tensor],
) -> None:
    model, pixels, labels = problem
    budget = Budget(1e-4)
    found = run(Cheat(), problem, budget)
    assert (model(found).argmax(dim=1) != labels).any()
    victim = FakeVictim(model)
    verdict = judge(
        victim,  # type: ignore[arg-type]
        budget,
        pixels.numpy(),
        labels.numpy(),
        found.numpy(),
    )
    assert not verdict.broken.any()
    assert (verdict.size <= budget.eps).all() and verdict.size.any()
