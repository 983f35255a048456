"""Controls: the original hardened with other thresholds, where the outcome is known.

With its own thresholds it must be the hardened file. With thresholds near zero hardening must
do nothing. With random thresholds it must not do better than with the calibrated ones.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from lipcompile import model_io
from lipcompile.auditing.attacks import Attack
from lipcompile.auditing.campaign import Campaign
from lipcompile.auditing.masking.check import LEVEL, Check
from lipcompile.auditing.victim import Settings, Victim, open_victim
from lipcompile.errors import InputError, LipCompileError
from lipcompile.model_io import LoadedModel
from lipcompile.rebuild import rebuild, rebuild_forged
from lipcompile.records import COLUMNS, SITES, is_ours
from lipcompile.statistics import mcnemar

# Factors on the thresholds; the second is for float16, which holds nothing below 6e-8.
_NEAR_ZERO = (2.0**-30, 2.0**-12)
_SAME = 1e-3  # of the largest score
_PROBES = 64
_SPREAD = 2.0  # random thresholds: c * 2^u, u uniform within this on both sides


def control_checks(campaign: Campaign, attack: Attack) -> list[Check]:
    """The controls.

    Args:
        campaign: After all its attacks.
        attack: Run with the identity gradient on the placebo, as it was on the hardened model.
    """
    return [_provenance(campaign), _limit(campaign), _placebo(campaign, attack)]


def _provenance(campaign: Campaign) -> Check:
    name = "the file is what its provenance says"
    built = _rebuild(campaign, rebuild)
    if isinstance(built, str):
        return Check(name, "ours", None, built)
    return _alike(name, campaign, built, "hardened")


def _limit(campaign: Campaign) -> Check:
    name = "thresholds near zero reproduce the original"
    reason = ""
    for factor in _NEAR_ZERO:
        change = partial(operator.mul, factor)
        # Without the ensemble, which changes scores by itself.
        built = _rebuild(campaign, partial(rebuild_forged, change=change), changed=True)
        if not isinstance(built, str):
            return _alike(name, campaign, built, "original")
        reason = built
    return Check(name, "ours", None, reason)


def _alike(name: str, campaign: Campaign, built: Victim, role: str) -> Check:
    pixels = _around(campaign)
    before, after = campaign.victims[role].deployed(pixels), built.deployed(pixels)
    difference = float(np.abs(after - before).max() / max(np.abs(before).max(), 1e-30))
    same = int((after.argmax(axis=1) == before.argmax(axis=1)).sum())
    evidence = (
        f"rebuilt from the original: largest difference {difference:.2g} of the scores, "
        f"{same} of {len(pixels)} predictions the same, on the images and beside them"
    )
    alike = difference <= _SAME and same >= len(pixels) - max(1, len(pixels) // 100)
    return Check(name, "ours", alike, evidence)


def _around(campaign: Campaign) -> np.ndarray:
    """The images, and as many beside them: a sham may differ only off the 8-bit levels."""
    pixels, budget = campaign.images.pixels, campaign.budget
    noise = np.random.default_rng(campaign.seed).uniform(-1, 1, pixels.shape)
    moved = pixels + noise.astype(np.float32) * np.float32(min(budget.eps, 0.5))
    return np.concatenate([pixels, budget.project(pixels, moved)])


def _placebo(campaign: Campaign, attack: Attack) -> Check:
    name = "a placebo with random thresholds is no better"
    generator = np.random.default_rng(campaign.seed)

    def change(c: float) -> float:
        return c * float(2.0 ** generator.uniform(-_SPREAD, _SPREAD))

    built = _rebuild(campaign, partial(rebuild, change=change), changed=True)
    strike = campaign.find("hardened", "bpda-identity", attack.name)
    if isinstance(built, str) or strike is None:
        return Check(name, "ours", None, built if isinstance(built, str) else "not run")
    side = campaign.side(victims={"placebo": built})
    side.measure_clean()
    clean = side.clean["placebo"]
    found = side.attack("placebo", "bpda-identity", attack, clean, gradient="identity").strike
    placebo = clean & ~found.broken
    hardened = campaign.clean["hardened"] & ~strike.broken
    better = mcnemar(
        int((placebo & ~hardened).sum()), int((hardened & ~placebo).sum()), "greater"
    )
    evidence = (
        f"under bpda-identity {attack.name}: hardened {hardened.mean():.2%}, placebo "
        f"{placebo.mean():.2%} (p = {better:.2g} that the placebo is better)"
    )
    return Check(name, "ours", better >= LEVEL, evidence)


def _rebuild(
    campaign: Campaign,
    build: Callable[[LoadedModel, Mapping[str, str]], Any],
    changed: bool = False,
) -> Victim | str:
    """The original hardened once more, with changed thresholds or not; or why not."""
    original, hardened = campaign.victims["original"], campaign.victims["hardened"]
    metadata = hardened.model.metadata
    if not is_ours(metadata):
        return "the file has no LipCompile provenance to build it from"
    if SITES not in metadata and changed:
        what = "variant weight" if COLUMNS in metadata else "variant none"
        return f"{what} has no thresholds to change"
    source = model_io.load(
        original.model.path or original.model.proto, original.model.base_dir
    )
    try:
        proto = build(source, metadata)
    except InputError as error:
        return f"it cannot be built: {error}"
    try:
        rebuilt = model_io.load(proto, original.model.base_dir)
        return open_victim(
            "placebo",
            rebuilt,
            original.file.normalisation,
            campaign.images.pixels[:_PROBES],
            original.device,
            Settings(original.output, original.batch, original.threads),
        )
    except LipCompileError as error:
        return f"it cannot be run: {error}"
