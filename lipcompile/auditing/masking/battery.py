"""All masking checks, in the order in which they are read."""

from __future__ import annotations

from lipcompile.auditing.campaign import Campaign
from lipcompile.auditing.masking.behaviour import (
    CurvePoint,
    accuracy_curve,
    behaviour_checks,
)
from lipcompile.auditing.masking.check import Check
from lipcompile.auditing.masking.controls import control_checks
from lipcompile.auditing.masking.smoothing import smoothing_check
from lipcompile.auditing.masking.strength import strength_checks
from lipcompile.auditing.presets import Preset


def run_battery(
    campaign: Campaign, preset: Preset
) -> tuple[tuple[Check, ...], tuple[CurvePoint, ...]]:
    """Runs every check.

    Args:
        campaign: After all its attacks.
        preset: What was run.

    Returns:
        The checks, and accuracy against epsilon for both models.
    """
    curve = accuracy_curve(campaign, preset)
    looked = {
        role: (
            *strength_checks(campaign, role, preset.adaptive.name),
            *behaviour_checks(campaign, role, curve),
        )
        for role in campaign.victims
    }
    controls = control_checks(campaign, preset.adaptive)
    return (
        *looked["hardened"],
        _original(looked["original"]),
        *controls,
        smoothing_check(campaign),
    ), curve


def _original(checks: tuple[Check, ...]) -> Check:
    """An original whose attacks are fooled looks too robust to be compared with."""
    failed = [check for check in checks if check.failed]
    evidence = "; ".join(f"{check.name}: {check.evidence}" for check in failed)
    return Check(
        "the original passes the same checks",
        "ours",
        not failed,
        evidence or f"{sum(check.passed is True for check in checks)} checks passed",
    )
