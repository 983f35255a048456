"""All masking checks, in the order in which they are read."""

from __future__ import annotations

from lipcompile.auditing.campaign import Campaign
from lipcompile.auditing.masking.behaviour import CurvePoint, behaviour_checks
from lipcompile.auditing.masking.check import Check
from lipcompile.auditing.masking.controls import control_checks
from lipcompile.auditing.masking.strength import strength_checks
from lipcompile.auditing.presets import Preset

_LATER = Check(
    "randomized smoothing agrees",
    "paper",
    None,
    "not part of the audit yet: it comes with the certificates",
)


def run_battery(
    campaign: Campaign, preset: Preset, improved: bool
) -> tuple[tuple[Check, ...], tuple[CurvePoint, ...]]:
    """Runs every check on the hardened model.

    Args:
        campaign: After all its attacks.
        preset: What was run.
        improved: Whether the worst case alone would say "improved".

    Returns:
        The checks, and accuracy against epsilon for both models.
    """
    strength = strength_checks(campaign, preset.adaptive.name)
    behaviour, curve = behaviour_checks(campaign, preset.curve)
    controls = control_checks(campaign, preset.adaptive, improved)
    return (*strength, *behaviour, *controls, _LATER), tuple(curve)
