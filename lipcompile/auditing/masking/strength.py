"""Checks that compare attacks: a weaker one must not beat a stronger one.

Where it does, the stronger one was misled, mostly by gradients that point nowhere.
"""

from __future__ import annotations

import numpy as np

from lipcompile.auditing.campaign import Campaign
from lipcompile.auditing.masking.check import (
    LEAST_IMAGES,
    LEAST_SHARE,
    LEVEL,
    Check,
    Source,
)
from lipcompile.auditing.presets import white_box_left
from lipcompile.auditing.strike import Strike
from lipcompile.statistics import sign_test

_SQUARE_GAIN = 0.002  # AutoAttack's own limit, as a share of the images
_GAP = 0.02  # how far the gap between two losses may widen, as a share of the images
_ROOM = 0.9  # share of the original's images broken, from which on it can show no gap
_WIDE = 0.1  # a gap of this share needs no original to compare with


def strength_checks(campaign: Campaign, role: str, adaptive: str) -> list[Check]:
    """The checks for one model.

    Args:
        campaign: After all its attacks.
        role: Which model; the gap between losses is compared with the original's.
        adaptive: Name of the attack that every gradient path ran.
    """
    white_box = campaign.find(role, "white-box", adaptive)
    checks = [
        _black_box(campaign, role),
        _weaker(
            "one-step attacks are not stronger than iterative ones",
            "paper",
            campaign.find(role, "white-box", "fgsm"),
            campaign.find(role, "white-box", "pgd"),
        ),
        _weaker(
            "transfer from the other model is not stronger than white-box",
            "paper",
            _transferred(campaign, role, adaptive),
            white_box,
        ),
    ]
    for path in ("bpda-identity", "bpda-smooth"):
        name = f"{path} is not stronger than white-box"
        if campaign.victims[role].has_surrogates:
            checks.append(
                _weaker(name, "ours", campaign.find(role, path, adaptive), white_box)
            )
        else:
            nothing = "no forged function and no rounding operator whose gradient to replace"
            checks.append(Check(name, "ours", None, nothing))
    if role == "hardened":
        checks.append(_gap(campaign, adaptive))
    return [*checks, _square(campaign, role), _view(campaign, role)]


def _transferred(campaign: Campaign, role: str, adaptive: str) -> Strike | None:
    """The replay of what the plain white-box attack found against the other model."""
    for strike in campaign.strikes:
        replayed = (strike.role, strike.path, strike.attack) == (role, "transfer", adaptive)
        if replayed and strike.settings["found_by"] == "white-box":
            return strike
    return None


def _weaker(name: str, source: Source, weak: Strike | None, strong: Strike | None) -> Check:
    """Counts the images that only one of two attacks broke, among those that both saw."""
    if weak is None or strong is None:
        return Check(name, source, None, "not run")
    both = weak.attacked & strong.attacked
    only_weak = int((both & weak.broken & ~strong.broken).sum())
    only_strong = int((both & strong.broken & ~weak.broken).sum())
    p = sign_test(only_weak, only_strong)
    evidence = (
        f"of {both.sum()} images {weak.path} {weak.attack} alone broke {only_weak}, "
        f"{strong.path} {strong.attack} alone {only_strong} (one-sided p = {p:.2g})"
    )
    if both.sum() < LEAST_IMAGES:
        return Check(name, source, None, f"{evidence}: too few to tell")
    beyond = p < LEVEL and only_weak - only_strong > LEAST_SHARE * len(both)
    return Check(name, source, not beyond, evidence)


def _black_box(campaign: Campaign, role: str) -> Check:
    name = "black-box attacks are not stronger than white-box ones"
    strikes = [s for s in campaign.strikes if (s.role, s.path) == (role, "black-box")]
    left = white_box_left(campaign, role)
    broken = np.zeros_like(left)
    for strike in strikes:
        broken |= strike.broken
    gained = int((left & broken).sum())
    evidence = (
        f"{' and '.join(s.attack for s in strikes) or 'no attack'} broke {gained} of the "
        f"{left.sum()} images that white-box attacks had left"
    )
    if not strikes or not left.any():
        return Check(name, "paper", None, evidence)
    return Check(name, "paper", gained <= max(2, LEAST_SHARE * len(left)), evidence)


def _gap(campaign: Campaign, adaptive: str) -> Check:
    """Per image: +1 where only the margin loss succeeds, -1 where only cross-entropy does.

    Scores that are scaled or saturated hide the gradient of the cross-entropy alone, which
    lets the margin loss gain on it.
    """
    name = "the gap between CW and APGD does not widen against the original"
    leads: dict[str, np.ndarray] = {}
    seen = np.ones(len(campaign.images.labels), bool)
    most = 0.0
    for role in ("original", "hardened"):
        margin = campaign.find(role, "white-box", "margin-pgd")
        entropy = campaign.find(role, "white-box", adaptive)
        if margin is None or entropy is None:
            return Check(name, "ours", None, "not run")
        leads[role] = margin.broken.astype(int) - entropy.broken.astype(int)
        seen &= margin.attacked & entropy.attacked
        if role == "original" and margin.attacked.any():
            most = float((margin.broken | entropy.broken)[margin.attacked].mean())
    gaps = {role: int(lead[seen].sum()) for role, lead in leads.items()}
    change = (leads["hardened"] - leads["original"])[seen]
    p = sign_test(int((change > 0).sum()), int((change < 0).sum()))
    evidence = (
        f"images that margin-pgd broke beyond {adaptive}: {gaps['hardened']:+d} hardened, "
        f"{gaps['original']:+d} original, of {seen.sum()} (one-sided p = {p:.2g})"
    )
    if seen.sum() < LEAST_IMAGES:
        return Check(name, "ours", None, f"{evidence}: too few to tell")
    beyond = p < LEVEL and gaps["hardened"] - gaps["original"] > _GAP * len(seen)
    if beyond and most > _ROOM and gaps["hardened"] <= _WIDE * len(seen):
        # Of an original that everything breaks, no attack can break more than another.
        return Check(name, "ours", None, f"{evidence}; the original leaves no room for a gap")
    return Check(name, "ours", not beyond, evidence)


def _square(campaign: Campaign, role: str) -> Check:
    """AutoAttack's flag: Square lowers what the attacks with gradients left."""
    name = "Square does not improve on the gradient attacks"
    square = campaign.find(role, "black-box", "square")
    if square is None:
        return Check(name, "autoattack", None, "not run")
    left = campaign.clean[role].copy()
    for strike in campaign.strikes:
        found_by = strike.settings.get("found_by", strike.path)
        if strike.role == role and found_by != "black-box":
            left &= ~strike.broken
    gained = int((left & square.broken).sum())
    evidence = f"Square broke {gained} of the {left.sum()} images left by gradient attacks"
    if not left.any():
        return Check(name, "autoattack", None, evidence)
    return Check(name, "autoattack", gained <= max(1, _SQUARE_GAIN * len(left)), evidence)


def _view(campaign: Campaign, role: str) -> Check:
    """Examples that fool torch and not the file would be robustness by rounding."""
    name = "what fools the torch view fools the deployed file"
    strikes = [s for s in campaign.strikes if s.role == role and s.path != "transfer"]
    lost = sum(s.view_only for s in strikes)
    broken = sum(int(s.broken.sum()) for s in strikes)
    evidence = f"{lost} candidates fooled the view alone, {broken} the file"
    allowed = max(2, LEAST_SHARE * (lost + broken))
    return Check(name, "ours", lost <= allowed if lost + broken else None, evidence)
