"""The rules by which a sweep chooses, on the choosing part alone.

1. A setting is admitted if it can be built, and keeps within the budget of clean accuracy and
   within the other limits.
2. With attacks, a setting is better if its worst-case accuracy is higher than that of the
   original under the same attacks. Of those the best has the highest worst-case accuracy; ties
   go to the smaller loss of clean accuracy, then to the setting that was listed first. If none
   is better, none is chosen.
3. Without attacks nothing is known about robustness. The best is the admitted setting that
   shrinks the weights most (mean singular ratio), if that is by `NOISE` or more below what the
   zeros leave which are there anyway; ties as before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lipcompile.findings import Finding, failures
from lipcompile.gates import Gates
from lipcompile.measure import LatencyRatio
from lipcompile.statistics import PairedDifference
from lipcompile.sweeping.trial import Answers, Trial

DEFAULT_DROP = 0.01
NOISE = 1e-3  # what singular ratios may be wrong by (`singular.masked_ratios`)
_DIGITS = 6  # beyond which two singular ratios are equal


def limits(
    labelled: bool,
    max_accuracy_drop: float | None = None,
    max_latency_ratio: float | None = None,
    min_agreement: float | None = None,
    min_robust_accuracy: float | None = None,
) -> Gates:
    """What an admitted setting keeps to.

    Without labels, accuracy cannot fall by more than the share of samples whose class changes:
    then a drop of at most d asks for an agreement of at least 1 - d.

    Raises:
        OptionError: A limit is out of range.
    """
    drop = DEFAULT_DROP if max_accuracy_drop is None else max_accuracy_drop
    asked = Gates(min_agreement, drop, max_latency_ratio, min_robust_accuracy)
    if labelled:
        return asked
    least = round(1 - drop, 12)  # 1 - 0.18 is a little more than 0.82
    return replace(
        asked, max_accuracy_drop=None, min_agreement=max(least, min_agreement or 0.0)
    )


def judge(gates: Gates, answers: Answers, latency: LatencyRatio | None) -> tuple[Finding, ...]:
    """Whether each limit holds, on the samples of `answers`."""
    found = gates.agreement(answers.agreement.value) + gates.latency(latency)
    if answers.clean is None:
        return found
    return gates.accuracy_drop("clean", -answers.clean.difference) + found


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A setting as the rules see it.

    Attributes:
        trial: What was measured.
        answers: On the choosing part; None where it cannot be had.
        obstacle: Why it is not admitted, in words; None where it is.
        worst: Paired difference of worst cases under attack, where it was attacked.
        robust: Its worst-case accuracy there.
        masked: A masking check failed, so that its worst case is only an upper bound.
    """

    trial: Trial
    answers: Answers | None
    obstacle: str | None
    worst: PairedDifference | None = None
    robust: float = 0.0
    masked: bool = False

    @classmethod
    def of(cls, trial: Trial, answers: Answers | None, gates: Gates) -> Candidate:
        """A setting before it was attacked."""
        if answers is None:
            return cls(trial, None, f"it cannot be had: {trial.problem}")
        failed = failures(judge(gates, answers, trial.latency))
        return cls(trial, answers, "; ".join(failed) or None)

    @property
    def is_better(self) -> bool:
        """Than the original, under the same attacks."""
        return self.worst is not None and self.worst.difference > 0

    @property
    def name(self) -> str:
        return self.trial.setting.name


def strongest(candidates: Sequence[Candidate], baseline: float) -> Candidate | None:
    """The best without attacks, by rule 3.

    Args:
        candidates: In the order in which they were listed.
        baseline: Mean singular ratio without any hardening.
    """
    known = [(x, x.trial.singular) for x in candidates if x.obstacle is None]
    shrunk = [(x, r[0]) for x, r in known if r is not None and r[0] <= baseline - NOISE]
    return _least([(x, round(value, _DIGITS)) for x, value in shrunk])


def most_robust(candidates: Sequence[Candidate]) -> Candidate | None:
    """The best under attack by rule 2; where none is better than the original, the one that
    comes nearest."""
    rated = [x for x in candidates if x.obstacle is None and x.worst and not x.masked]
    better = [x for x in rated if x.is_better]
    if better:
        return _least([(x, -x.robust) for x in better])
    return _least([(x, -x.worst.difference) for x in rated if x.worst])


def _least(rated: Sequence[tuple[Candidate, float]]) -> Candidate | None:
    def rank(item: tuple[Candidate, float]) -> tuple[float, float]:
        candidate, value = item
        assert candidate.answers is not None
        return value, candidate.answers.drop

    return min(rated, key=rank)[0] if rated else None


def explain(best: Candidate | None, candidates: Sequence[Candidate], *, attacked: bool) -> str:
    """Why this one, or why none, in a sentence or two."""
    admitted = [x for x in candidates if x.obstacle is None]
    if not admitted:
        return _none_admitted(candidates)
    of = f"of {len(candidates)} settings, {len(admitted)} kept within the limits"
    if best is None:
        if any(x.masked for x in admitted):
            return f"{of}, and every one of them failed a masking check: keep the original"
        if any(x.trial.singular for x in admitted):
            return f"{of}, and none of them shrinks the weights: there is nothing to ship"
        return f"{of}, and none of them can be compared without an attack: pass --eps"
    if attacked:
        assert best.worst is not None
        if not best.is_better:
            return (
                f"{of}; none has a higher worst case than the original; {best.name} comes "
                f"nearest: {best.worst} on the choosing part; {_resolution(best.worst)}"
                "keep the original"
            )
        return (
            f"{of}; of those that are better than the original, {best.name} has the highest "
            f"worst case, {best.worst} on the choosing part"
        )
    assert best.trial.singular is not None
    return (
        f"{of}; {best.name} shrinks the weights most (largest singular value of the masked "
        f"weight over the original's: mean {best.trial.singular[0]:.3f}). No attack was run, "
        "so this says nothing about robustness: pass --eps"
    )


def _resolution(worst: PairedDifference) -> str:
    """What the number of images does not tell."""
    if not worst.low < 0 < worst.high:
        return ""
    return f"{worst.n} images cannot tell this from no change; "


def _none_admitted(candidates: Sequence[Candidate]) -> str:
    built = [x for x in candidates if x.answers is not None]
    if not built:
        first = candidates[0]
        return f"no setting can be had; the first, {first.name}: {first.trial.problem}"
    least = min(built, key=lambda x: x.answers.drop if x.answers else 1.0)
    return (
        f"no setting keeps within the limits; nearest was {least.name}: {least.obstacle}; "
        "lower --cr, or allow more"
    )


def to_json(candidate: Candidate, attacks: Mapping[str, Any] | None) -> dict[str, Any]:
    """The setting, all that was measured of it, and whether it was admitted."""
    said = candidate.answers.to_json() if candidate.answers is not None else {}
    return {
        **candidate.trial.to_json(),
        **{key: said.get(key) for key in ("accuracy", "clean_difference", "agreement")},
        "worst_case": attacks,
        "admitted": candidate.obstacle is None,
        "reason": candidate.obstacle,
    }
