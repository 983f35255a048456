"""Which attacks an audit runs, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

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
from lipcompile.auditing.campaign import Campaign
from lipcompile.auditing.strike import Found
from lipcompile.errors import OptionError
from lipcompile.torchview.backward import Gradient

ROLES = ("original", "hardened")
_SURROGATES: tuple[tuple[str, Gradient], ...] = (
    ("bpda-identity", "identity"),
    ("bpda-smooth", "smooth"),
)


@dataclass(frozen=True, slots=True)
class Preset:
    """A set of attacks with their settings.

    Attributes:
        name: "fast" or "standard".
        everywhere: White-box attacks on every image that is classified correctly.
        adaptive: The attack of every surrogate gradient, and of transfers.
        restart: Started from what broke the other model.
        survivors: White-box attacks on what is left.
        adaptive_survivors: With the surrogate gradient that broke most, on what is left.
        black_box: On what the white-box attacks left.
        curve: For accuracy against epsilon, with the exact gradient.
    """

    name: str
    everywhere: tuple[Attack, ...]
    adaptive: Attack
    restart: Attack
    survivors: tuple[Attack, ...]
    adaptive_survivors: tuple[Attack, ...]
    black_box: tuple[Attack, ...]
    curve: Attack

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "attacks": [a.settings() for a in self._all()]}

    def _all(self) -> tuple[Attack, ...]:
        alone = (self.adaptive, self.restart, self.curve)
        groups = (self.survivors, self.adaptive_survivors, self.black_box)
        return (*self.everywhere, *alone, *(a for group in groups for a in group))


_EVERYWHERE = (FGSM(), PGD(), MarginPGD())
PRESETS = {
    "fast": Preset(
        "fast",
        everywhere=_EVERYWHERE,
        adaptive=APGDCE(),
        restart=MarginPGD(steps=20, step=0.1),
        survivors=(APGDT(),),
        adaptive_survivors=(APGDT(targets=3),),
        black_box=(Square(queries=500), NES()),
        curve=MarginPGD(steps=20, step=0.1),
    ),
    "standard": Preset(
        "standard",
        everywhere=_EVERYWHERE,
        adaptive=APGDCE(),
        restart=MarginPGD(),
        survivors=(APGDT(), FABT()),
        adaptive_survivors=(APGDT(),),
        black_box=(Square(queries=5000), NES(steps=50)),
        curve=MarginPGD(steps=20, step=0.1),
    ),
}


def preset(name: str) -> Preset:
    """The preset `name`.

    Raises:
        OptionError: There is none.
    """
    if name not in PRESETS:
        raise OptionError(f"attacks '{name}' is unknown: use {' or '.join(PRESETS)}")
    return PRESETS[name]


def run_preset(campaign: Campaign, chosen: Preset) -> None:
    """Runs every path on both models; `campaign.robust` then is the worst case.

    Stages: white-box and surrogate gradients on every image; what was found against one model
    as a start against the other; targeted attacks on what is left; black-box attacks on what
    the plain white-box attacks left, so that the two can be compared. Whatever an attack finds
    against one model is replayed on the other at once, as it is.
    """
    found = {role: _everywhere(campaign, role, chosen) for role in ROLES}
    for role, other in zip(ROLES, reversed(ROLES), strict=True):
        left = campaign.robust(role)
        _strike(campaign, role, "transfer-start", chosen.restart, left, start=found[other])
        for attack in _applicable(chosen.survivors, campaign):
            _strike(campaign, role, "white-box", attack, white_box_left(campaign, role))
        path, wanted = _strongest(campaign, chosen.adaptive.name)
        gradient = _gradient(campaign, role, wanted)
        for attack in _applicable(chosen.adaptive_survivors, campaign):
            left = campaign.robust(role)
            _strike(campaign, role, path, attack, left, gradient)
    for role in ROLES:
        for attack in _applicable(chosen.black_box, campaign):
            _strike(campaign, role, "black-box", attack, white_box_left(campaign, role))


def white_box_left(campaign: Campaign, role: str) -> np.ndarray:
    """bool [N]: correct, and broken by no attack with the exact gradient."""
    left = campaign.clean[role].copy()
    for strike in campaign.strikes:
        if strike.role == role and strike.path == "white-box":
            left &= ~strike.broken
    return left


def _everywhere(campaign: Campaign, role: str, chosen: Preset) -> Found:
    """Every attack on every image; returns the adaptive attack with the exact gradient."""
    among = campaign.clean[role]
    for attack in chosen.everywhere:
        _strike(campaign, role, "white-box", attack, among)
    found = _strike(campaign, role, "white-box", chosen.adaptive, among)
    for path, wanted in _SURROGATES:
        gradient = _gradient(campaign, role, wanted)
        _strike(campaign, role, path, chosen.adaptive, among, gradient)
    return found


def _strongest(campaign: Campaign, adaptive: str) -> tuple[str, Gradient]:
    """The surrogate that broke most images of the hardened model."""

    def broken(surrogate: tuple[str, Gradient]) -> int:
        strike = campaign.find("hardened", surrogate[0], adaptive)
        return int(strike.broken.sum()) if strike is not None else 0

    return max(_SURROGATES, key=broken)


def _gradient(campaign: Campaign, role: str, wanted: Gradient) -> Gradient:
    """`wanted`, or the exact gradient (another random start) where there is nothing to
    replace.
    """
    return wanted if campaign.victims[role].has_surrogates else "exact"


def _strike(
    campaign: Campaign,
    role: str,
    path: str,
    attack: Attack,
    among: np.ndarray,
    gradient: Gradient = "exact",
    start: Found | None = None,
) -> Found:
    """Attacks one model, and replays what was found on the other."""
    found = campaign.attack(role, path, attack, among, gradient=gradient, start=start)
    campaign.transfer(found, ROLES[1 - ROLES.index(role)])
    return found


def _applicable(attacks: tuple[Attack, ...], campaign: Campaign) -> Iterator[Attack]:
    """The attacks that can be run; a note says what was left out, and why."""
    classes = campaign.victims["hardened"].classes
    height, width = campaign.images.pixels.shape[2:]
    for attack in attacks:
        reason = None
        if isinstance(attack, APGDT) and classes < attack.least_classes:
            reason = f"its loss needs {attack.least_classes} classes, there are {classes}"
        elif isinstance(attack, Square) and not attack.fits(height, width, campaign.budget):
            reason = f"its squares do not tile images of {height}x{width}"
        if reason is None:
            yield attack
        elif (note := f"{attack.name} was left out: {reason}") not in campaign.notes:
            campaign.notes.append(note)
