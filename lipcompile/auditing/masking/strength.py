"""Checks that compare attacks: a weaker one must not beat a stronger one.

Where it does, the stronger one was misled, mostly by gradients that point nowhere.
"""

from __future__ import annotations

import numpy as np

from lipcompile.auditing.campaign import Campaign, Strike
from lipcompile.auditing.masking.check import LEAST_SHARE, LEVEL, Check
from lipcompile.auditing.presets import white_box_left
from lipcompile.auditing.statistics import sign_test

_SQUARE_GAIN = 0.002  # AutoAttack's own limit, as a share of the images
_GAP = 0.02  # how far the gap between two losses may widen, as a share of the images


def strength_checks(campaign: Campaign, adaptive: str) -> list[Check]:
    """The checks, for the hardened model.

    Args:
        campaign: After all its attacks.
        adaptive: Name of the attack that every gradient path ran.
    """
    white_box = campaign.find("hardened", "white-box", adaptive)
    assert white_box is not None
    return [
        _black_box(campaign),
        _weaker(
            campaign,
            "one-step attacks are not stronger than iterative ones",
            campaign.find("hardened", "white-box", "fgsm"),
            campaign.find("hardened", "white-box", "pgd"),
        ),
        _weaker(
            campaign,
            "transfer from the original is not stronger than white-box",
            _transferred(campaign, adaptive),
            white_box,
        ),
        *(
            _weaker(
                campaign,
                f"{path} is not stronger than white-box",
                campaign.find("hardened", path, adaptive),
                white_box,
            )
            for path in ("bpda-identity", "bpda-smooth")
        ),
        _gap(campaign, "CW", "margin-pgd", "APGD", adaptive),
        _gap(campaign, "one-step", "fgsm", "iterative", "pgd"),
        _square(campaign),
    ]


def _transferred(campaign: Campaign, adaptive: str) -> Strike | None:
    for strike in campaign.strikes:
        if (strike.role, strike.path, strike.attack) == ("hardened", "transfer", adaptive):
            return strike  # the first is what the white-box attack on the original found
    return None


def _weaker(
    campaign: Campaign, name: str, weak: Strike | None, strong: Strike | None
) -> Check:
    """Counts the images that only one of two attacks broke, among those that both saw."""
    source = "paper" if "bpda" not in name else "ours"
    if weak is None or strong is None:
        return Check(name, source, None, "not run")  # type: ignore[arg-type]
    both = weak.attacked & strong.attacked
    only_weak = int((both & weak.broken & ~strong.broken).sum())
    only_strong = int((both & strong.broken & ~weak.broken).sum())
    p = sign_test(only_weak, only_strong)
    beyond = p < LEVEL and only_weak - only_strong > LEAST_SHARE * len(both)
    evidence = (
        f"of {both.sum()} images {weak.path} {weak.attack} alone broke {only_weak}, "
        f"{strong.path} {strong.attack} alone {only_strong} (one-sided p = {p:.2g})"
    )
    return Check(name, source, not beyond, evidence)  # type: ignore[arg-type]


def _black_box(campaign: Campaign) -> Check:
    name = "black-box attacks are not stronger than white-box ones"
    strikes = [s for s in campaign.strikes if (s.role, s.path) == ("hardened", "black-box")]
    left = white_box_left(campaign, "hardened")
    broken = np.zeros_like(left)
    for strike in strikes:
        broken |= strike.broken
    gained, total = int((left & broken).sum()), len(left)
    evidence = (
        f"{' and '.join(s.attack for s in strikes) or 'no attack'} broke {gained} of the "
        f"{left.sum()} images that white-box attacks had left"
    )
    if not strikes:
        return Check(name, "paper", None, evidence)
    return Check(name, "paper", gained <= max(2, LEAST_SHARE * total), evidence)


def _gap(
    campaign: Campaign, first_name: str, first: str, second_name: str, second: str
) -> Check:
    """Per image: +1 where only the first attack succeeds, -1 where only the second does."""
    name = f"the gap between {first_name} and {second_name} attacks does not widen"
    leads: dict[str, np.ndarray] = {}
    seen = np.ones(len(campaign.images.labels), bool)
    for role in ("original", "hardened"):
        one = campaign.find(role, "white-box", first)
        other = campaign.find(role, "white-box", second)
        if one is None or other is None:
            return Check(name, "ours", None, "not run")
        leads[role] = one.broken.astype(int) - other.broken.astype(int)
        seen &= one.attacked & other.attacked
    gaps = {role: int(lead[seen].sum()) for role, lead in leads.items()}
    sign = 1 if gaps["hardened"] >= 0 else -1
    change = sign * (leads["hardened"] - leads["original"])[seen]
    p = sign_test(int((change > 0).sum()), int((change < 0).sum()))
    wider = abs(gaps["hardened"]) - abs(gaps["original"])
    evidence = (
        f"images that {first} broke beyond {second}: {gaps['hardened']:+d} hardened, "
        f"{gaps['original']:+d} original, of {seen.sum()} (one-sided p = {p:.2g})"
    )
    return Check(name, "ours", not (p < LEVEL and wider > _GAP * len(seen)), evidence)


def _square(campaign: Campaign) -> Check:
    """AutoAttack's flag: Square lowers what everything before it left."""
    name = "Square does not improve on the gradient attacks"
    square = campaign.find("hardened", "black-box", "square")
    if square is None:
        return Check(name, "autoattack", None, "not run")
    left = campaign.clean["hardened"].copy()
    for strike in campaign.strikes:
        if strike.role == "hardened" and strike.path != "black-box":
            left &= ~strike.broken
    gained = int((left & square.broken).sum())
    evidence = f"Square broke {gained} of the {left.sum()} images left by everything else"
    return Check(name, "autoattack", gained <= max(1, _SQUARE_GAIN * len(left)), evidence)
