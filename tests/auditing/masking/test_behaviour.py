"""Checks of a model itself, with tiny networks whose faults are known image by image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from lipcompile.auditing.attacks import Attack
from lipcompile.auditing.budget import Budget
from lipcompile.auditing.campaign import Campaign
from lipcompile.auditing.masking.behaviour import (
    CurvePoint,
    accuracy_curve,
    behaviour_checks,
    radii,
)
from lipcompile.auditing.masking.check import Check
from tests.auditing.quick import QUICK
from tests.auditing.synthetic import FakeVictim, make_campaign, rows, strike

FALLS = "accuracy falls to zero as epsilon grows"
ZERO = "gradients do not vanish"
SATURATED = "logits are not saturated"
PROBABILITIES = "attacks see logits, not probabilities"
DETERMINISTIC = "the model is deterministic"

Forward = Callable[[torch.Tensor], torch.Tensor]


class Network(torch.nn.Module):
    """A linear classifier of 2x2 images; images whose first pixel is 1 get `fault` instead."""

    def __init__(self, fault: Forward | None = None) -> None:
        super().__init__()
        self.fault = fault
        self.weight = torch.tensor([[1.0, 0.1, 0, 0], [0, 1, 0.1, 0], [0, 0, 1, 0.1]])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits = pixels.flatten(1) @ self.weight.T
        if self.fault is None:
            return logits
        marked = pixels.detach().flatten(1)[:, :1] == 1
        return torch.where(marked, self.fault(logits), logits)


def campaign(marked: int = 0, count: int = 100, **changes: Any) -> Campaign:
    """`count` images, the first `marked` of which have the pixel that brings the fault out."""
    pixels = np.random.default_rng(0).uniform(0.2, 0.8, (count, 1, 2, 2))
    pixels[:marked, 0, 0, 0] = 1
    return make_campaign(pixels, np.zeros(count), **changes)


def check(name: str, of: Campaign, role: str = "hardened", *curve: CurvePoint) -> Check:
    (found,) = [c for c in behaviour_checks(of, role, curve) if c.name == name]
    return found


def test_rows_of_both_models() -> None:
    """The original's scores are what saturation is measured against: it has no such row."""
    for role, saturated in (("hardened", [SATURATED]), ("original", [])):
        found = behaviour_checks(campaign(), role, ())
        wanted = [FALLS, ZERO, *saturated, PROBABILITIES, DETERMINISTIC]
        assert [c.name for c in found] == wanted


def test_determinism_is_stated_since_others_are_refused_before() -> None:
    """See `open_victim`: the row tells the reader that it was looked at."""
    found = check(DETERMINISTIC, campaign())
    assert found.passed
    assert found.evidence == "three runs on the same images gave the same bits"


# Gradients


def flat(logits: torch.Tensor) -> torch.Tensor:
    return logits.detach()


@pytest.mark.parametrize(
    ("count", "marked", "passed"),
    [
        (100, 0, True),
        (100, 1, True),
        (100, 2, False),
        (100, 100, False),
        (250, 2, True),
        (250, 3, False),
    ],
)
def test_images_without_a_gradient(count: int, marked: int, passed: bool) -> None:
    found = check(ZERO, campaign(marked, count, hardened=FakeVictim(Network(flat))))
    assert found.passed is passed
    assert found.evidence.endswith(f"on {marked} of {count} images")


def test_network_that_cuts_the_gradient_has_none_anywhere() -> None:
    class Cut(Network):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return super().forward(pixels.detach())

    assert check(ZERO, campaign(hardened=FakeVictim(Cut()))).failed


def test_gradient_of_each_model_is_its_own() -> None:
    of = campaign(50, original=FakeVictim(Network(flat)))
    assert check(ZERO, of, "original").failed
    assert check(ZERO, of, "hardened").passed


def test_gradients_are_looked_at_where_the_model_is_right() -> None:
    clean = {"original": rows(100, (0, 100)), "hardened": rows(100, (50, 100))}
    faulty = FakeVictim(Network(flat))
    assert check(ZERO, campaign(50, hardened=faulty, clean=clean)).passed
    assert check(ZERO, campaign(53, hardened=faulty, clean=clean)).failed


def test_model_that_is_never_right_has_no_gradients_to_look_at() -> None:
    clean = {"original": rows(100, (0, 100)), "hardened": rows(100)}
    of = campaign(clean=clean)
    assert check(ZERO, of).passed is None
    assert check(SATURATED, of).passed is None
    assert check(ZERO, of, "original").passed
    of = campaign(clean={"original": rows(100), "hardened": rows(100, (0, 100))})
    assert check(SATURATED, of).passed is None


# Saturation


def times_10000(logits: torch.Tensor) -> torch.Tensor:
    return 1e4 * logits


@pytest.mark.parametrize(
    ("marked", "before", "passed"),
    [
        (100, None, False),
        (6, None, False),
        (5, None, True),  # 5 % more than the original
        (0, None, True),
        (100, times_10000, True),  # so is the original's
    ],
)
def test_saturated_scores(marked: int, before: Forward | None, passed: bool) -> None:
    of = campaign(
        marked,
        original=FakeVictim(Network(before)),
        hardened=FakeVictim(Network(times_10000)),
    )
    found = check(SATURATED, of)
    assert found.passed is passed
    shown = f"{marked} of 100 images (original: {marked if before else 0} of 100)"
    assert found.evidence.endswith(shown)


def test_original_may_be_the_saturated_one() -> None:
    assert check(SATURATED, campaign(100, original=FakeVictim(Network(times_10000)))).passed


# Probabilities


class After(torch.nn.Module):
    """The classifier's scores through a function."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.function, self.network = function, Network()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.function(self.network(pixels))


@pytest.mark.parametrize(
    ("function", "found", "passed"),
    [
        (lambda z: z.softmax(dim=1), False, False),
        (lambda z: z.softmax(dim=1), True, True),  # attacks read what goes into it
        (lambda z: z, False, True),
        (lambda z: z.sigmoid(), False, True),  # in [0, 1], and no distribution
        (lambda z: z.log_softmax(dim=1), False, True),
        (lambda z: z - z.sum(dim=1, keepdim=True) / 3 + 1 / 3, False, True),  # sums alone
    ],
    ids=["softmax", "softmax found", "logits", "sigmoid", "log-softmax", "sums to one"],
)
def test_scores_that_look_like_probabilities(
    function: Forward, found: bool, passed: bool
) -> None:
    victim = FakeVictim(After(function), gives_probabilities=found)
    row = check(PROBABILITIES, campaign(hardened=victim))
    assert row.passed is passed
    assert ("no Softmax was found to look behind" in row.evidence) is not passed


# Accuracy against epsilon


def points(*accuracies: float, role: str = "hardened", images: int = 100) -> list[CurvePoint]:
    return [CurvePoint(role, 0.1 * 2**i, a, images) for i, a in enumerate(accuracies)]


@pytest.mark.parametrize(
    ("curve", "passed"),
    [
        (points(0.9, 0.5, 0.3), False),
        (points(0.9, 0.5, 0.02), False),
        (points(0.9, 0.5, 0.01), True),  # one survivor is allowed
        (points(0.9, 0.5, 0.0), True),
        (points(0.0, 0.0, 0.5), False),  # only the last point counts
        (points(0.5, 0.2, images=10), False),
        (points(0.5, 0.1, images=10), True),
        (points(0.9, 0.5, 0.0) + points(0.9, 0.9, role="original"), True),
        (points(0.9, 0.5, 0.0, role="original"), None),
        ([], None),
    ],
)
def test_accuracy_has_to_fall_to_zero(curve: list[CurvePoint], passed: bool | None) -> None:
    assert check(FALLS, campaign(), "hardened", *curve).passed is passed


def test_curve_is_shown() -> None:
    evidence = check(FALLS, campaign(), "hardened", *points(0.9, 0.0)).evidence
    assert evidence == "margin attack on 100 images: 90% at 0.1, 0% at 0.2"


@pytest.mark.parametrize(
    ("budget", "values", "expected"),
    [
        (Budget(0.1), 784, [0.1, 0.2, 0.4, 0.5]),
        (Budget(0.25), 784, [0.25, 0.5]),
        (Budget(0.3), 784, [0.3, 0.5]),
        (Budget(0.5), 784, [0.5]),
        (Budget(0.75), 784, [0.75]),
        (Budget(1.0, "l2"), 784, [1.0, 2.0, 4.0, 8.0, 14.0]),
        (Budget(7.0, "l2"), 784, [7.0, 14.0]),
        (Budget(20.0, "l2"), 784, [20.0]),
    ],
    ids=str,
)
def test_radii_end_where_any_image_can_become_grey(
    budget: Budget, values: int, expected: list[float]
) -> None:
    found = radii(budget, values)
    assert found == expected
    black, grey = np.zeros((1, 1, 28, 28)), np.full((1, 1, 28, 28), 0.5)
    assert budget.size(black, grey)[0] <= found[-1]


@dataclass(frozen=True, slots=True)
class Darken(Attack):
    """Takes eps off every pixel."""

    name: ClassVar[str] = "darken"

    def run(self, model: Any, pixels: Any, labels: Any, budget: Budget, start: Any) -> Any:
        return (pixels - budget.eps).clamp(min=0)


class Bright(torch.nn.Module):
    """Class 0 where the mean pixel is above 0.5."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        lead = pixels.flatten(1).mean(dim=1, keepdim=True) - 0.5
        return torch.cat([lead, -lead], dim=1)


def test_curve_is_measured_at_each_radius_on_both_models() -> None:
    """Images of brightness 0.66 and 0.76 stay right up to eps = 0.16 and 0.26."""
    pixels = np.full((200, 1, 2, 2), 0.66)
    pixels[::4] = 0.76
    of = make_campaign(
        pixels, np.zeros(200), original=FakeVictim(Bright()), hardened=FakeVictim(Bright())
    )
    of.clean["hardened"] = rows(200, (0, 40))
    of.strikes.append(strike("original", "white-box", "darken", rows(200, (0, 60))))
    found = accuracy_curve(of, replace(QUICK, curve=Darken()))
    shape = [(p.role, p.eps, p.images) for p in found]
    assert shape == [
        (role, eps, images)
        for role, images in (("original", 100), ("hardened", 40))
        for eps in (0.1, 0.2, 0.4, 0.5)
    ]
    # At the audit's own epsilon the original's point is the strike that was there.
    assert [p.accuracy for p in found] == [0.4, 0.25, 0, 0, 1, 0.25, 0, 0]
    assert len(of.strikes) == 1


def test_curve_of_a_model_that_is_never_right_is_empty() -> None:
    of = campaign(clean={"original": rows(100), "hardened": rows(100)})
    assert accuracy_curve(of, replace(QUICK, curve=Darken())) == ()
