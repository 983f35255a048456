"""The check that asks noise: random noise follows no gradient, so none can be hidden from it.

Up to 100 images that both models classify correctly get 64 draws of Gaussian noise each, the
very same for both models, with sigma = eps. Where a boundary is flat, an image that no
perturbation of size eps breaks, in linf or in l2, lies at least eps ||w||_2 from it, and so
keeps its class under Phi(1) = 84 % of such noise or more. An image is *held* by a model where
the exact limit of the probability of its label under noise is above 1/2, that is, where the
smoothed model is certified to give the label (arXiv 1902.02918) at some radius.

A defence that is really more robust does not lose to its original under the same noise. The
check fails where both
    1. the worst case says "improved" (McNemar's exact test at the verdict's own level), and
    2. the original alone holds more images than the hardened model alone: one-sided exact sign
       test below `LEVEL`, and more than `LEAST_SHARE` of the images, as in `strength.py`.
It shows a contradiction and nothing more: models may be alike under noise and masked all the
same, and where boundaries are curved, noise and attacks may honestly rank two models
differently.
"""

from __future__ import annotations

import numpy as np

from lipcompile.auditing.campaign import Campaign
from lipcompile.auditing.masking.check import LEAST_IMAGES, LEAST_SHARE, LEVEL, Check
from lipcompile.certifying.smoothing.noise import ImageNoise, Stream
from lipcompile.statistics import lower_limit, mcnemar, sign_test

_NAME = "randomized smoothing agrees"
_IMAGES = 100
_DRAWS = 64
_SIGNIFICANT = 0.05  # of the verdict "improved"


def smoothing_check(campaign: Campaign) -> Check:
    """Compares both models under the same noise.

    Args:
        campaign: After all its attacks.
    """
    both = campaign.clean["original"] & campaign.clean["hardened"]
    chosen = np.flatnonzero(both)[:_IMAGES]
    if len(chosen) < LEAST_IMAGES:
        evidence = f"both models are right on {len(chosen)} images: too few to tell"
        return Check(_NAME, "paper", None, evidence)
    held = _held(campaign, chosen)
    lost = int((held["original"] & ~held["hardened"]).sum())
    won = int((held["hardened"] & ~held["original"]).sum())
    p = sign_test(lost, won)
    evidence = (
        f"of {len(chosen)} images under {_DRAWS} draws of noise with sigma = "
        f"{campaign.budget.eps:.3g} the original alone held {lost}, the hardened model alone "
        f"{won} (one-sided p = {p:.2g})"
    )
    if not (p < LEVEL and lost - won > LEAST_SHARE * len(chosen)):
        return Check(_NAME, "paper", True, evidence)
    if _claims_gain(campaign):
        return Check(_NAME, "paper", False, f"{evidence}, while the worst case improved")
    return Check(_NAME, "paper", True, f"{evidence}; the worst case claims no gain either")


def _held(campaign: Campaign, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """By role, bool [n]: more than half of all noise would leave the image its label."""
    right = {role: np.zeros(len(chosen), int) for role in campaign.victims}
    for place, index in enumerate(chosen):
        pixels, label = campaign.images.pixels[index], campaign.images.labels[index]
        noise = ImageNoise(pixels, campaign.seed, pixels.shape)
        normals = noise.draws(Stream.COUNT, 0, _DRAWS)
        noisy = pixels + normals * np.float32(campaign.budget.eps)
        labels = np.full(_DRAWS, label)
        for role, victim in campaign.victims.items():
            right[role][place] = victim.is_right(noisy, labels).sum()
    needed = next(k for k in range(_DRAWS + 1) if lower_limit(k, _DRAWS, LEVEL) > 0.5)
    return {role: counts >= needed for role, counts in right.items()}


def _claims_gain(campaign: Campaign) -> bool:
    """Whether the worst cases alone say "improved"."""
    original, hardened = (campaign.robust(role) for role in ("original", "hardened"))
    gained, lost = int((hardened & ~original).sum()), int((original & ~hardened).sum())
    return gained > lost and mcnemar(gained, lost) < _SIGNIFICANT
