"""Gates: what a pipeline asks of a hardened model, under the same names in every command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lipcompile.errors import OptionError
from lipcompile.findings import Finding
from lipcompile.measure import LatencyRatio
from lipcompile.text import percent

AGREEMENT = "--min-agreement"
DROP = "--max-accuracy-drop"
LATENCY = "--max-latency-ratio"
ROBUST = "--min-robust-accuracy"
CERTIFIED = "--min-certified-accuracy"
NOT_RUN = "the models did not both run"
NO_SCORES = "the first output is no vector of class scores"
_DIGITS = 15  # more tell no double from its neighbour


@dataclass(frozen=True, slots=True)
class Gates:
    """Conditions on a hardened model; None asks for nothing. At the very bound a gate holds.

    Each method judges one measurement, and gives nothing where the gate was not set. What
    could not be measured does not hold.

    Attributes:
        min_agreement: Least share of samples with the original's class, in [0, 1].
        max_accuracy_drop: How far accuracy may lie below the original's, in [0, 1].
        max_latency_ratio: Largest median of hardened over original latency, > 0.
        min_robust_accuracy: Least worst-case accuracy, in [0, 1].
        min_certified_accuracy: Least certified accuracy at a radius, in [0, 1].
    """

    min_agreement: float | None = None
    max_accuracy_drop: float | None = None
    max_latency_ratio: float | None = None
    min_robust_accuracy: float | None = None
    min_certified_accuracy: float | None = None

    def __post_init__(self) -> None:
        shares = {
            AGREEMENT: (self.min_agreement, "0.99 for 99 %"),
            DROP: (self.max_accuracy_drop, "0.01 for one point"),
            ROBUST: (self.min_robust_accuracy, "0.3 for 30 %"),
            CERTIFIED: (self.min_certified_accuracy, "0.3 for 30 %"),
        }
        for flag, (share, example) in shares.items():
            if share is not None and not 0 <= share <= 1:
                raise OptionError(
                    f"{flag} {share:g} is out of range: give a share from 0 to 1, for example "
                    f"{example}"
                )
        most = self.max_latency_ratio
        if most is not None and not 0 < most < float("inf"):
            raise OptionError(f"{LATENCY} {most:g} is out of range: give a ratio such as 1.06")

    def agreement(self, share: float | None, missing: str = NO_SCORES) -> tuple[Finding, ...]:
        """Judges the share of samples for which both models give the same class."""
        least = self.min_agreement
        if least is None:
            return ()
        if share is None:
            why = f"top-1 agreement cannot be measured ({missing})"
            return (Finding(AGREEMENT, False, why),)
        measured, bound = _apart(share, least, _percent)
        fact = f"top-1 agreement is {measured}"
        return _judged(AGREEMENT, share >= least, fact, f"{AGREEMENT} {bound}")

    def accuracy_drop(self, which: str, drop: float) -> tuple[Finding, ...]:
        """Judges by how much one accuracy, "clean" or "worst-case", fell."""
        most = self.max_accuracy_drop
        if most is None:
            return ()
        measured, bound = _apart(max(drop, 0.0), most, _percent)
        fact = f"{which} accuracy fell by {measured}"
        if drop <= 0:
            fact, bound = f"{which} accuracy did not fall", percent(most)
        name = f"{DROP}, {which}"
        return _judged(name, drop <= most, fact, f"{DROP} {bound}", "more than")

    def latency(
        self, ratio: LatencyRatio | None, missing: str = NOT_RUN
    ) -> tuple[Finding, ...]:
        """Judges the median latency ratio."""
        most = self.max_latency_ratio
        if most is None:
            return ()
        if ratio is None:
            why = f"latency ratio cannot be measured ({missing})"
            return (Finding(LATENCY, False, why),)
        measured, _ = _apart(ratio.median, most, lambda x, more: f"{x:.{3 + more}f}")
        fact, bound = f"latency ratio is {measured}", f"{LATENCY} {most:.12g}"
        return _judged(LATENCY, ratio.median <= most, fact, bound, "above")

    def robust_accuracy(self, share: float) -> tuple[Finding, ...]:
        """Judges the worst-case accuracy."""
        least = self.min_robust_accuracy
        if least is None:
            return ()
        measured, bound = _apart(share, least, _percent)
        fact = f"worst-case accuracy is {measured}"
        return _judged(ROBUST, share >= least, fact, f"{ROBUST} {bound}")

    def certified_accuracy(self, share: float) -> tuple[Finding, ...]:
        """Judges the certified accuracy."""
        least = self.min_certified_accuracy
        if least is None:
            return ()
        measured, bound = _apart(share, least, _percent)
        fact = f"certified accuracy is {measured}"
        return _judged(CERTIFIED, share >= least, fact, f"{CERTIFIED} {bound}")


def _apart(
    measured: float, bound: float, show: Callable[[float, int], str]
) -> tuple[str, str]:
    """Both as text, with as many more digits as it takes to tell one from the other."""
    more = 0
    while measured != bound and show(measured, more) == show(bound, more) and more < _DIGITS:
        more += 1
    return show(measured, more), show(bound, more)


def _percent(share: float, more: int) -> str:
    return percent(share) if more == 0 else f"{100 * share:.{2 + more}f} %"


def _judged(
    name: str, holds: bool, fact: str, bound: str, how: str = "below"
) -> tuple[Finding, ...]:
    relation = "within" if holds else how
    return (Finding(name, holds, f"{fact}, {relation} {bound}"),)
