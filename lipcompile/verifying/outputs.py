"""The outputs of both models on data."""

from __future__ import annotations

from collections.abc import Sequence

from lipcompile.calibration.probes import Probe
from lipcompile.changing import Change
from lipcompile.checks import Agreement, measure_agreement
from lipcompile.runtime import Session
from lipcompile.text import percent
from lipcompile.verifying.results import VerifyCheck, some

FINITE = "finite outputs"


def check_outputs(
    session: Session, probes: Sequence[Probe], data: str, change: Change
) -> tuple[tuple[VerifyCheck, ...], Agreement]:
    """Finite where the original's are, and how far they lie apart but for `change`."""
    agreement, broken = measure_agreement(session, probes, change)
    names = [f"'{name}' is NaN or infinite" for name in broken]
    if broken:
        finite = VerifyCheck(
            FINITE, False, f"on {data}, where the original is not: {some(names)}"
        )
    else:
        text = f"on {data}"
        if agreement.original_has_nan:
            text += ", wherever the original's are: it gives NaN itself"
        finite = VerifyCheck(FINITE, True, text)
    apart = f"largest output difference {percent(agreement.max_difference)}"
    if agreement.top1 is not None:
        apart = f"top-1 agreement {percent(agreement.top1)}, {apart}"
    else:
        apart += " (no class scores to compare)"
    return (finite, VerifyCheck("agreement", None, apart, decides=False)), agreement
