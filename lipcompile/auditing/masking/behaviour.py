"""Checks of the model itself: its gradients, its scores, and what large epsilons do to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lipcompile.auditing.attacks import Attack
from lipcompile.auditing.attacks.base import margin
from lipcompile.auditing.budget import Budget
from lipcompile.auditing.campaign import Campaign, judge
from lipcompile.auditing.masking.check import Check
from lipcompile.auditing.seeds import derived_seed, seeded

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
    campaign: Campaign, attack: Attack
) -> tuple[list[Check], list[CurvePoint]]:
    """The checks for the hardened model, and accuracy against epsilon for both.

    Args:
        campaign: After all its attacks.
        attack: What is run at each epsilon.
    """
    gradients = {role: _gradients(campaign, role) for role in campaign.victims}
    curve = [p for role in campaign.victims for p in _curve(campaign, role, attack)]
    checks = [
        _falls_to_zero(curve, attack.name),
        _zero_gradients(gradients),
        _saturated(gradients),
        _probabilities(campaign),
        Check(
            "the model is deterministic",
            "autoattack",
            True,
            "three runs on the same images gave the same bits, for both models",
        ),
    ]
    return checks, curve


@dataclass(frozen=True, slots=True)
class _Gradients:
    """Shares of images: no margin gradient at all; cross-entropy exactly 0 in float32."""

    images: int
    zero: float
    saturated: float


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
        return _Gradients(0, 0.0, 0.0)
    return _Gradients(
        len(chosen),
        float(np.concatenate(zero).mean()),
        float(np.concatenate(saturated).mean()),
    )


def _zero_gradients(gradients: dict[str, _Gradients]) -> Check:
    hardened, original = gradients["hardened"], gradients["original"]
    return Check(
        "gradients do not vanish",
        "autoattack",
        hardened.zero <= _ZERO_SHARE,
        f"the gradient of the margin is zero everywhere on {hardened.zero:.1%} of "
        f"{hardened.images} images (original: {original.zero:.1%})",
    )


def _saturated(gradients: dict[str, _Gradients]) -> Check:
    """Saturated scores hide the gradient of the cross-entropy, as logits times 10^4 do."""
    hardened, original = gradients["hardened"], gradients["original"]
    return Check(
        "logits are not saturated",
        "ours",
        hardened.saturated <= original.saturated + _SATURATED_SHARE,
        f"the cross-entropy is exactly 0 in float32 on {hardened.saturated:.1%} of "
        f"{hardened.images} images (original: {original.saturated:.1%})",
    )


def _probabilities(campaign: Campaign) -> Check:
    """AutoAttack's flag: attacks need logits, not probabilities."""
    name = "attacks see logits, not probabilities"
    victim = campaign.victims["hardened"]
    if victim.gives_probabilities:
        evidence = "the model ends in Softmax; gradient attacks read what goes into it"
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


def _curve(campaign: Campaign, role: str, attack: Attack) -> list[CurvePoint]:
    victim, images = campaign.victims[role], campaign.images
    chosen = np.flatnonzero(campaign.clean[role])[:_CURVE_IMAGES]
    points = []
    for eps in radii(campaign.budget, images.pixels[0].size):
        budget, alive = Budget(eps, campaign.budget.norm), 0
        for start in range(0, len(chosen), campaign.batch):
            part = chosen[start : start + campaign.batch]
            pixels, labels = images.pixels[part], images.labels[part]
            with seeded(derived_seed(campaign.seed, "curve", eps, start)):
                candidates = attack.run(
                    victim.view(),
                    torch.from_numpy(pixels).to(victim.device),
                    torch.from_numpy(labels).to(victim.device),
                    budget,
                    None,
                )
            found = candidates.detach().cpu().numpy()
            alive += int((~judge(victim, budget, pixels, labels, found)[1]).sum())
        if len(chosen):
            points.append(CurvePoint(role, eps, alive / len(chosen), len(chosen)))
    return points


def _falls_to_zero(curve: list[CurvePoint], attack: str) -> Check:
    points = [p for p in curve if p.role == "hardened"]
    name = "accuracy falls to zero as epsilon grows"
    if not points:
        return Check(name, "paper", None, "no image is classified correctly")
    shown = ", ".join(f"{p.accuracy:.0%} at {p.eps:.3g}" for p in points)
    evidence = f"{attack} on {points[0].images} images: {shown}"
    return Check(name, "paper", points[-1].accuracy <= _ZERO_SHARE, evidence)
