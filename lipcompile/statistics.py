"""Exact statistics of paired yes-or-no outcomes: no normal approximation, whatever n."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import optimize, special, stats

from lipcompile.text import percent

_BETA = 0.001  # Berger and Boos's own choice
_GRID = 65
_TAIL = 1e-12  # mass that the sum over m may leave out; it counts as evidence for the null
_STEP = 1e-9  # precision of a limit, by which it is moved outwards


def exact_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Clopper-Pearson interval of a share: it covers with at least `confidence`.

    Args:
        successes: 0 to n.
        n: Independent trials; 0 tells nothing, which gives (0, 1).
        confidence: In (0, 1).
    """
    if n == 0:
        return 0.0, 1.0
    interval = stats.binomtest(successes, n).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def lower_limit(successes: int, n: int, alpha: float) -> float:
    """Clopper and Pearson's exact one-sided limit: below the true share with >= 1 - alpha.

    The p with P(Bin(n, p) >= successes) = alpha, which is the alpha quantile of
    Beta(successes, n - successes + 1); moved down by 1e-12 of itself for rounding.

    Args:
        successes: 0 to n.
        n: Independent trials; 0 tells nothing.
        alpha: In (0, 1).
    """
    if successes == 0:
        return 0.0
    quantile = special.betaincinv(successes, n - successes + 1, alpha)
    return float(quantile) * (1 - 1e-12)


def near_chance(right: np.ndarray, classes: int, who: str = "the original") -> str | None:
    """A note for readers, where guessing may explain how often a classifier was right.

    Args:
        right: bool [N], N >= 1.
        classes: How many there are to guess from.
        who: What the note calls the classifier.
    """
    if exact_interval(int(right.sum()), len(right))[0] > 1 / classes:
        return None
    return (
        f"{who} is right on {percent(right.mean())} of {len(right)} images, which "
        f"chance ({percent(1 / classes)}) may explain: check labels and preprocessing"
    )


def sign_test(positive: int, negative: int) -> float:
    """One-sided exact p of as many or more positive signs, where both are equally likely.

    P(Bin(positive + negative, 1/2) >= positive); 1 where there are no signs.
    """
    return float(stats.binom.sf(positive - 1, positive + negative, 0.5))


def mcnemar(
    gained: int, lost: int, alternative: Literal["two-sided", "greater"] = "two-sided"
) -> float:
    """McNemar's exact p of discordant pairs: Bin(gained + lost, 1/2), given their number.

    Args:
        gained: Pairs where only the second is right.
        lost: Pairs where only the first is right.
        alternative: "greater" asks whether more were gained than lost; "two-sided" doubles
            the smaller side, at most 1.
    """
    if alternative == "greater":
        return sign_test(gained, lost)
    return min(1.0, 2 * sign_test(max(gained, lost), min(gained, lost)))


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much more often the hardened model is right than the original, on the same images.

    Attributes:
        n: Images.
        gained: Those that only the hardened model gets right.
        lost: Those that only the original gets right.
        low: Lower limit of the difference of the two accuracies, from `difference_interval`.
        high: Upper limit.
        p: McNemar's exact two-sided p. It conditions on gained + lost and the interval does
            not, so that one may exclude "no difference" where the other does not.
        confidence: Of the interval.
    """

    n: int
    gained: int
    lost: int
    low: float
    high: float
    p: float
    confidence: float

    @classmethod
    def of(
        cls, original_ok: np.ndarray, hardened_ok: np.ndarray, confidence: float = 0.95
    ) -> PairedDifference:
        """From two bool arrays [N], N >= 1, of the same images in the same order."""
        before, after = np.asarray(original_ok, bool), np.asarray(hardened_ok, bool)
        assert before.shape == after.shape and before.ndim == 1 and before.size
        gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
        low, high = difference_interval(gained, lost, before.size, confidence)
        p = mcnemar(gained, lost)
        return cls(before.size, gained, lost, low, high, p, confidence)

    @property
    def difference(self) -> float:
        """(gained - lost) / n, the difference of the two accuracies."""
        return (self.gained - self.lost) / self.n

    def to_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "gained": self.gained,
            "lost": self.lost,
            "difference": self.difference,
            "low": self.low,
            "high": self.high,
            "confidence": self.confidence,
            "mcnemar_p": self.p,
        }

    def __str__(self) -> str:
        points = [f"{100 * v:+.2f}" for v in (self.difference, self.low, self.high)]
        return (
            f"{points[0]} points ({100 * self.confidence:g} % interval {points[1]} to"
            f" {points[2]}; n = {self.n}, {self.gained} gained, {self.lost} lost, McNemar's"
            f" exact p = {self.p:.3g})"
        )


def difference_interval(
    gained: int, lost: int, n: int, confidence: float = 0.95
) -> tuple[float, float]:
    """An interval of delta = p10 - p01 that covers it with at least `confidence`.

    n images are independent draws: gained with probability p10, lost with p01, else neither.
    Let B and C count them, M = B + C, q = p10 + p01, theta = (q + delta) / (2 q). Given M = m,
    B ~ Bin(m, theta), so for the observed d = gained - lost

        T(delta, q) = P(B - C >= d) = sum_m Bin(m; n, q) P(Bin(m, theta) >= (m + d) / 2),

    which grows with delta. The lower limit is the least delta with

        sup {T(delta, q) : q in I, q >= |delta|} > (alpha - beta) / 2,

    where I is the Clopper-Pearson interval of q at confidence 1 - beta, alpha = 1 - confidence
    and beta = 0.001; the upper limit mirrors it. Whatever p10 and p01 are,

        P(delta not covered) <= P(q not in I) + P(T(delta, q) <= (alpha - beta) / 2)
                                + its mirror image <= beta + 2 (alpha - beta) / 2 = alpha.

    Source: Berger and Boos, "P values maximized over a confidence set for the nuisance
    parameter", JASA 89 (1994), for the supremum over I; the sum over m is elementary. Departs
    from it in that both limits share one I, so beta is paid once.

    The supremum is taken numerically: on a grid of q that is refined around its maximum.

    Args:
        gained: B.
        lost: C, with gained + lost <= n.
        n: At least 1.
        confidence: Below 1 - beta.
    """
    assert min(gained, lost) >= 0 and gained + lost <= n and n >= 1
    assert 0 < confidence < 1 - _BETA
    level = (1 - confidence - _BETA) / 2
    nuisance = exact_interval(gained + lost, n, 1 - _BETA)
    low = _lower_limit(gained - lost, n, nuisance, level)
    high = -_lower_limit(lost - gained, n, nuisance, level)
    return low, high


def _lower_limit(d: int, n: int, nuisance: tuple[float, float], level: float) -> float:
    """The least delta in [-1, 1] whose supremum of T exceeds `level`.

    The supremum grows with delta as far as q's upper limit: where q may no longer be as small
    as before, T(delta, delta) is larger than what is lost. There it is near 1.
    """

    def excess(delta: float) -> float:
        return _sup_tail(delta, d, n, nuisance) - level

    largest = nuisance[1]
    if excess(-largest) >= 0:
        return -largest
    root = optimize.brentq(excess, -largest, largest, xtol=_STEP)
    return max(-1.0, float(root) - 2 * _STEP)


def _sup_tail(delta: float, d: int, n: int, nuisance: tuple[float, float]) -> float:
    low, high = max(nuisance[0], abs(delta)), nuisance[1]
    if low >= high:
        return float(_tail(delta, np.array([high]), d, n)[0])
    grid = np.linspace(low, high, _GRID)
    values = _tail(delta, grid, d, n)
    best = int(values.argmax())
    fine = np.linspace(grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)], _GRID // 4)
    return float(max(values[best], _tail(delta, fine, d, n).max()))


def _tail(delta: float, q: np.ndarray, d: int, n: int) -> np.ndarray:
    """T(delta, q) for each q [Q], at most `_TAIL` too high."""
    theta = np.clip((q + delta) / (2 * np.maximum(q, 1e-300)), 0.0, 1.0)[:, None]
    m = np.arange(*_support(n, q))[None, :]
    weights = stats.binom.pmf(m, n, q[:, None])
    needed = np.maximum((m + d + 1) // 2, 0)  # ceil((m + d) / 2)
    inner = special.betainc(np.maximum(needed, 1), np.maximum(m - needed + 1, 1), theta)
    chances = np.where(needed == 0, 1.0, np.where(needed > m, 0.0, inner))
    total: np.ndarray = (weights * chances).sum(axis=1) + _TAIL
    return total


def _support(n: int, q: np.ndarray) -> tuple[int, int]:
    """A range of m that holds all but `_TAIL` of Bin(n, q) for every q."""
    first = stats.binom.ppf(_TAIL / 2, n, q.min())
    last = stats.binom.isf(_TAIL / 2, n, q.max())
    return max(0, int(first) - 1), min(n, int(last) + 1) + 1
