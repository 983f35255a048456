"""The outputs of both models on data, and what a pipeline may ask of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lipcompile.calibration.scan import Probe
from lipcompile.checks import Agreement, measure_agreement
from lipcompile.errors import OptionError
from lipcompile.measure import LatencyRatio
from lipcompile.runtime import Session
from lipcompile.text import percent
from lipcompile.verifying.results import VerifyCheck, some

FINITE = "finite outputs"
_NOT_RUN = "the models did not both run"


@dataclass(frozen=True, slots=True)
class Gates:
    """Conditions of the user; None asks for nothing.

    Attributes:
        min_agreement: Least top-1 agreement, in [0, 1].
        max_latency_ratio: Largest median of the latency ratio, > 0.
    """

    min_agreement: float | None = None
    max_latency_ratio: float | None = None

    def __post_init__(self) -> None:
        least, most = self.min_agreement, self.max_latency_ratio
        if least is not None and not 0 <= least <= 1:
            raise OptionError(
                f"--min-agreement {least:g} is out of range: give a share from 0 to 1, for "
                "example 0.99 for 99 %"
            )
        if most is not None and not 0 < most < float("inf"):
            raise OptionError(
                f"--max-latency-ratio {most:g} is out of range: give a ratio such as 1.06"
            )

    def failures(
        self, agreement: Agreement | None, latency: LatencyRatio | None
    ) -> tuple[str, ...]:
        """The gates that do not hold, in words; what was not measured does not hold."""
        failed = []
        least, most = self.min_agreement, self.max_latency_ratio
        top1 = agreement.top1 if agreement is not None else None
        if least is not None and top1 is None:
            reason = "the first output is no vector of class scores"
            failed.append(
                f"top-1 agreement cannot be measured ({reason if agreement else _NOT_RUN})"
            )
        elif least is not None and top1 is not None and top1 < least:
            failed.append(
                f"top-1 agreement is {percent(top1)}, below --min-agreement {percent(least)}"
            )
        if most is not None and latency is None:
            failed.append(f"latency ratio cannot be measured ({_NOT_RUN})")
        elif most is not None and latency is not None and latency.median > most:
            failed.append(
                f"latency ratio is {latency.median:.3f}, above --max-latency-ratio {most:g}"
            )
        return tuple(failed)


def check_outputs(
    session: Session, probes: Sequence[Probe], data: str
) -> tuple[tuple[VerifyCheck, ...], Agreement]:
    """Finite where the original's are, and how far they lie apart."""
    agreement, broken = measure_agreement(session, probes)
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
