"""Checks of the model itself: its gradients, its scores, and what large epsilons do to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lipcompile.auditing.attacks.base import margin
from lipcompile.auditing.budget import Budget
from lipcompile.auditing.campaign import Campaign
from lipcompile.auditing.masking.check import Check
from lipcompile.auditing.presets import Preset

_LOOKED_AT = 256  # images for gradients and scores
_CURVE_IMAGES = 100
_ZERO_SHARE = 0.01
_SATURATED_SHARE = 0.05
_LARGEST = 0.5  # linf radius at which every image can become uniform grey


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Accuracy under one attack with the exact gradient, at one radius.

    Attributes:
        role: Which model.
        eps: Radius, in the audit's norm.
        accuracy: Share of the images that stay correct.
        images: How many, all correct without attack.
    """

    role: str
    eps: float
    accuracy: float
    images: int

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.role,
            "eps": self.eps,
            "accuracy": self.accuracy,
            "images": self.images,
        }


def behaviour_checks(
    campaign: Campaign, role: str, curve: Sequence[CurvePoint]
) -> list[Check]:
    """The checks of one model.

    Args:
        campaign: After all its attacks.
        role: Which model.
        curve: Accuracy against epsilon, of both models.
    """
    found = _gradients(campaign, role)
    checks = [
        _falls_to_zero([point for point in curve if point.role == role]),
        _zero_gradients(found),
        _probabilities(campaign, role),
        Check(
            "the model is deterministic",
            "autoattack",
            True,
            "three runs on the same images gave the same bits",
        ),
    ]
    if role == "hardened":
        checks.insert(2, _saturated(found, _gradients(campaign, "original")))
    return checks


@dataclass(frozen=True, slots=True)
class _Gradients:
    """How many of the images that were looked at show what gradient attacks cannot use.

    Attributes:
        images: Looked at, all correct without attack.
        zero: The gradient of the margin is zero everywhere.
        saturated: The cross-entropy is exactly 0 in float32.
    """

    images: int
    zero: int
    saturated: int


def _gradients(campaign: Campaign, role: str) -> _Gradients:
    victim = campaign.victims[role]
    chosen = np.flatnonzero(campaign.clean[role])[:_LOOKED_AT]
    zero, saturated = [], []
    model = victim.view()
    for start in range(0, len(chosen), campaign.batch):
        part = chosen[start : start + campaign.batch]
        leaf = torch.from_numpy(campaign.images.pixels[part]).to(victim.device)
        labels = torch.from_numpy(campaign.images.labels[part]).to(victim.device)
        leaf.requires_grad_()
        logits = model(leaf)
        reached = margin(logits, labels)
        if reached.requires_grad:
            (gradient,) = torch.autograd.grad(reached.sum(), leaf)
            zero.append(~gradient.flatten(1).any(dim=1).cpu().numpy())
        else:
            zero.append(np.ones(len(part), bool))
        loss = F.cross_entropy(logits.detach().float(), labels, reduction="none")
        saturated.append((loss == 0).cpu().numpy())
    if not zero:
        return _Gradients(0, 0, 0)
    counts = (int(np.concatenate(rows).sum()) for rows in (zero, saturated))
    return _Gradients(len(chosen), *counts)


def _zero_gradients(found: _Gradients) -> Check:
    return Check(
        "gradients do not vanish",
        "autoattack",
        found.zero <= max(1, _ZERO_SHARE * found.images) if found.images else None,
        f"the gradient of the margin is zero everywhere on {found.zero} of {found.images} "
        "images",
    )


def _saturated(hardened: _Gradients, original: _Gradients) -> Check:
    """Saturated scores hide the gradient of the cross-entropy, as logits times 10^4 do."""
    name = "logits are not saturated"
    if not (hardened.images and original.images):
        return Check(name, "ours", None, "no image is classified correctly")
    shares = [found.saturated / found.images for found in (hardened, original)]
    return Check(
        name,
        "ours",
        shares[0] <= shares[1] + _SATURATED_SHARE,
        f"the cross-entropy is exactly 0 in float32 on {hardened.saturated} of "
        f"{hardened.images} images (original: {original.saturated} of {original.images})",
    )


def _probabilities(campaign: Campaign, role: str) -> Check:
    """AutoAttack's flag: attacks need logits, not probabilities."""
    name = "attacks see logits, not probabilities"
    victim = campaign.victims[role]
    if victim.gives_probabilities:
        evidence = (
            "a mean of probabilities; gradient attacks read the logits of every view"
            if victim.averaged
            else "the model ends in Softmax; gradient attacks read what goes into it"
        )
        return Check(name, "autoattack", True, evidence)
    scores = victim.deployed(campaign.images.pixels[:_LOOKED_AT])
    sums = np.abs(scores.sum(axis=1) - 1.0).max()
    looks = scores.min() > -1e-5 and scores.max() < 1 + 1e-5 and sums < 1e-4
    evidence = (
        "the scores look like probabilities, and no Softmax was found to look behind"
        if looks
        else f"the scores range from {scores.min():.3g} to {scores.max():.3g}"
    )
    return Check(name, "autoattack", not bool(looks), evidence)


def radii(budget: Budget, values: int) -> list[float]:
    """eps, 2 eps, 4 eps, ... up to a radius at which every image can become grey.

    Args:
        budget: The audit's.
        values: Values per image.
    """
    largest = _LARGEST if budget.norm == "linf" else _LARGEST * values**0.5
    steps = [budget.eps]
    while steps[-1] * 2 < largest:
        steps.append(steps[-1] * 2)
    return [*steps, largest] if steps[-1] < largest else steps


def accuracy_curve(campaign: Campaign, preset: Preset) -> tuple[CurvePoint, ...]:
    """Accuracy of both models against epsilon, on up to 100 images each.

    The first point, at the audit's own epsilon, is the margin attack that was run anyway.
    """
    points = []
    for role in campaign.victims:
        chosen = np.zeros(len(campaign.images.labels), bool)
        chosen[np.flatnonzero(campaign.clean[role])[:_CURVE_IMAGES]] = True
        if not chosen.any():
            continue
        for eps in radii(campaign.budget, campaign.images.pixels[0].size):
            strike = campaign.find(role, "white-box", preset.curve.name)
            if eps != campaign.budget.eps or strike is None:
                side = campaign.side(budget=Budget(eps, campaign.budget.norm))
                strike = side.attack(role, f"curve {eps:.4g}", preset.curve, chosen).strike
            accuracy = float((~strike.broken[chosen]).mean())
            points.append(CurvePoint(role, eps, accuracy, int(chosen.sum())))
    return tuple(points)


def _falls_to_zero(points: Sequence[CurvePoint]) -> Check:
    name = "accuracy falls to zero as epsilon grows"
    if not points:
        return Check(name, "paper", None, "no image is classified correctly")
    shown = ", ".join(f"{p.accuracy:.0%} at {p.eps:.3g}" for p in points)
    last, allowed = points[-1], max(1, _ZERO_SHARE * points[-1].images)
    survivors = round(last.accuracy * last.images)
    evidence = f"margin attack on {last.images} images: {shown}"
    return Check(name, "paper", survivors <= allowed, evidence)
