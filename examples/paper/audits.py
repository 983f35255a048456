"""What the tables need of an audit, and the attacks that it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lipcompile.statistics import PairedDifference

if TYPE_CHECKING:
    from lipcompile.auditing.presets import Preset
    from lipcompile.auditing.results import AuditResult

Measure = Literal["clean", "plain", "worst"]
MEASURES: tuple[Measure, ...] = ("clean", "plain", "worst")
ROLES = ("original", "hardened")


def summary(result: AuditResult) -> dict[str, Any]:
    """What the tables need of an audit.

    "plain" is what a plain evaluation prints: each model attacked along its own exact
    gradients and nothing else. "worst" is the audit's pointwise worst case over all paths.
    """
    clean = (clean_of(result, "original"), clean_of(result, "hardened"))
    plain = (
        robust_to(result, "original", "white-box"),
        robust_to(result, "hardened", "white-box"),
    )
    worst = (result.original.robust, result.hardened.robust)
    return {
        "n": len(result.labels),
        "verdict": result.verdict,
        "failed_checks": [check.name for check in result.checks if check.failed],
        **{
            name: {
                "original": int(pair[0].sum()),
                "hardened": int(pair[1].sum()),
                "difference": PairedDifference.of(*pair).to_json(),
            }
            for name, pair in zip(MEASURES, (clean, plain, worst), strict=True)
        },
        "paths": list(left_by_path(result)),
        "curve": [point.to_json() for point in result.curve],
        "seconds": round(result.seconds, 1),
    }


def robust_to(result: AuditResult, role: str, path: str) -> Any:
    """bool [N]: right without attack, and broken by no strike of this path."""
    left = clean_of(result, role)
    for strike in result.strikes:
        if (strike.role, strike.path) == (role, path):
            left &= ~strike.broken
    return left


def clean_of(result: AuditResult, role: str) -> Any:
    """bool [N]: right without attack; a copy."""
    return (result.original if role == "original" else result.hardened).clean.copy()


def left_by_path(result: AuditResult) -> Iterator[dict[str, Any]]:
    """What each attack leaves after those before it on its path, for both models."""
    left = {
        (role, path): clean_of(result, role)
        for role in ROLES
        for path in {strike.path for strike in result.strikes}
    }
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for strike in result.strikes:
        name = "replays" if strike.path == "transfer" else strike.attack
        left[strike.role, strike.path] &= ~strike.broken
        line = lines.setdefault((strike.path, name), {"path": strike.path, "attack": name})
        line[strike.role] = int(left[strike.role, strike.path].sum())
    yield from lines.values()


def edits(encodings: Sequence[str]) -> dict[str, Any]:
    """How many layers were hardened and, for variant "weight", columns zeroed of how many."""
    found = [re.match(r"(\d+) of (\d+) columns", encoding) for encoding in encodings]
    columns = [(int(m[1]), int(m[2])) for m in found if m]
    return {
        "layers": len(encodings),
        "columns": [sum(c[0] for c in columns), sum(c[1] for c in columns)]
        if columns
        else None,
    }


def chosen_attacks(name: str) -> Preset:
    """The preset of the audit, or "trial"."""
    from lipcompile.auditing.attacks import APGDCE, FGSM, PGD, MarginPGD, Square
    from lipcompile.auditing.presets import Preset, preset

    if name != "trial":
        return preset(name)
    # A few steps of each: to try a script and look at its layout, no evidence of anything.
    short = MarginPGD(steps=3, step=0.5)
    return Preset(
        "trial",
        everywhere=(FGSM(), PGD(steps=3, step=0.5), short),
        adaptive=APGDCE(steps=5),
        restart=short,
        survivors=(),
        adaptive_survivors=(),
        black_box=(Square(queries=20),),
        curve=short,
    )
