"""A gain that noise contradicts is noticed; noise that agrees passes, and so does no claim."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lipcompile.auditing.campaign import Campaign
from lipcompile.auditing.masking.smoothing import smoothing_check
from tests.auditing.synthetic import FakeVictim, make_campaign, rows, strike

EPS = 0.1
COUNT = 40
WEIGHTS = torch.tensor([1.0, -1.0] * 8)


class Linear(torch.nn.Module):
    """Class 0 on one side of a plane through grey, class 1 on the other one."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        side = (pixels.flatten(1) - 0.5) @ WEIGHTS
        return torch.stack([side, -side], dim=1)


class Rugged(Linear):
    """The same at the 8-bit levels, and another function between them."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().forward(pixels - 3.0 * torch.sin(2 * torch.pi * 255 * pixels))


class Recording(FakeVictim):
    """Keeps what it was asked."""

    def deployed(self, pixels: np.ndarray) -> np.ndarray:
        self.asked = [*getattr(self, "asked", []), pixels]
        return super().deployed(pixels)


def images(count: int = COUNT) -> np.ndarray:
    """Of class 0, at 8-bit levels, in linf a little further than EPS from the plane."""
    rng = np.random.default_rng(0)
    offset = WEIGHTS.reshape(1, 4, 4).numpy() * rng.integers(29, 40, (count, 1, 4, 4)) / 255
    return (np.round((0.5 + offset) * 255) / 255).astype(np.float32)


def campaign(
    hardened: torch.nn.Module,
    *,
    count: int = COUNT,
    broken: tuple[int, int] = (30, 0),
    **changes: Any,
) -> Campaign:
    """Attacks broke the first so many images of the original, and of the hardened model."""
    strikes = [
        strike(role, "white-box", "apgd-ce", rows(count, (0, number)))
        for role, number in zip(("original", "hardened"), broken, strict=True)
    ]
    return make_campaign(
        images(count),
        np.zeros(count),
        FakeVictim(Linear()),
        FakeVictim(hardened),
        strikes=strikes,
        **changes,
    )


def test_gain_of_a_rugged_sham_is_contradicted() -> None:
    made = campaign(Rugged())
    hardened = made.victims["hardened"].deployed(made.images.pixels)
    assert (hardened.argmax(axis=1) == 0).all(), "without noise nothing is to be seen"
    found = smoothing_check(made)
    assert found.passed is False
    assert f"the original alone held {COUNT}, the hardened model alone 0" in found.evidence
    assert found.evidence.endswith("while the worst case improved")


def test_honest_gain_passes() -> None:
    found = smoothing_check(campaign(Linear()))
    assert found.passed is True
    assert "original alone held 0, the hardened model alone 0" in found.evidence


@pytest.mark.parametrize("broken", [(0, 0), (0, 30), (30, 27)])
def test_loss_under_noise_contradicts_no_claim_where_none_is_made(
    broken: tuple[int, int],
) -> None:
    found = smoothing_check(campaign(Rugged(), broken=broken))
    assert found.passed is True
    assert found.evidence.endswith("the worst case claims no gain either")


def test_few_images_tell_nothing() -> None:
    assert smoothing_check(campaign(Rugged(), count=9, broken=(9, 0))).passed is None


def test_images_that_one_model_gets_wrong_anyway_are_left_out() -> None:
    clean = {"original": np.ones(COUNT, bool), "hardened": rows(COUNT, (0, 15))}
    found = smoothing_check(campaign(Rugged(), clean=clean, broken=(15, 0)))
    assert found.evidence.startswith("of 15 images")


def test_both_models_get_the_same_noise_of_the_seed() -> None:
    asked = {}
    for seed in (0, 0, 1):
        made = campaign(Linear(), seed=seed)
        victims = {role: Recording(Linear()) for role in made.victims}
        made.victims.update(victims)  # type: ignore[arg-type]
        smoothing_check(made)
        before, after = (np.stack(victims[role].asked) for role in ("original", "hardened"))
        np.testing.assert_array_equal(before, after)
        if seed in asked:
            np.testing.assert_array_equal(asked[seed], before)
        asked[seed] = before
    assert not np.any(asked[0] == asked[1])
    noise = asked[0] - images()[:, None]
    assert noise.std() == pytest.approx(EPS, rel=0.02)


def test_what_no_perturbation_breaks_keeps_its_class_under_84_percent_of_noise() -> None:
    """The docstring's claim for flat boundaries, at its worst: one weight alone."""
    rng = np.random.default_rng(1)
    draws = rng.standard_normal((20_000, 16)) * EPS
    for weights in (np.eye(16)[0], np.ones(16), rng.standard_normal(16)):
        for dual in (1, 2):  # of linf and of l2
            margin = EPS * np.linalg.norm(weights, dual)
            assert (draws @ weights + margin > 0).mean() >= 0.8413 - 0.01
