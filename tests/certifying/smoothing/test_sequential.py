"""The sequential test's error is at most alpha at any stopping time, and it stops early.

Errors are summed over every path, which is exact; a planted test that looks at an ordinary
p-value again and again is caught by the same sum.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import integrate, stats

from lipcompile.certifying.smoothing.sequential import (
    decide,
    log_evidence_above,
    log_evidence_below,
)

ALPHA = 0.05
LONGEST = 700
Says = Callable[[np.ndarray, int, float], np.ndarray]


def yes(k: np.ndarray, n: int, p0: float) -> np.ndarray:
    return log_evidence_above(k, n, p0) >= -np.log(ALPHA)


def no(k: np.ndarray, n: int, p0: float) -> np.ndarray:
    return log_evidence_below(k, n, p0) >= -np.log(ALPHA)


def peeked(k: np.ndarray, n: int, p0: float) -> np.ndarray:
    """The planted failure: a test of fixed size at alpha, looked at after every draw."""
    return stats.binom.sf(k - 1, n, p0) <= ALPHA


def ever(says: Says, p: float, p0: float, longest: int = LONGEST) -> float:
    """P(it says so after any of the first draws), summed over all paths: exact."""
    alive, crossed = np.array([1.0]), 0.0  # by number of successes
    for n in range(1, longest + 1):
        alive = np.append(alive * (1 - p), 0) + np.append(0, alive * p)
        stop = says(np.arange(n + 1), n, p0)
        crossed += alive[stop].sum()
        alive[stop] = 0
    return float(crossed)


@pytest.mark.parametrize("p0", [0.55, 0.84, 0.99])
def test_yes_is_wrong_with_probability_alpha_at_most(p0: float) -> None:
    at_p0 = ever(yes, p0, p0)
    assert ALPHA / 20 < at_p0 <= ALPHA, "a test that never says yes would pass, too"
    assert ever(yes, p0 - 0.05, p0) < at_p0


@pytest.mark.parametrize("p0", [0.55, 0.84, 0.99])
def test_no_is_wrong_with_probability_alpha_at_most(p0: float) -> None:
    at_p0 = ever(no, p0, p0)
    assert ALPHA / 20 < at_p0 <= ALPHA
    assert ever(no, p0 + (1 - p0) / 2, p0) < at_p0


@pytest.mark.parametrize("p0", [0.55, 0.84])
def test_planted_test_that_is_peeked_at_is_caught(p0: float) -> None:
    assert stats.binom.sf(stats.binom.isf(ALPHA, 500, p0), 500, p0) <= ALPHA, "once is right"
    assert ever(peeked, p0, p0) > 3 * ALPHA


@pytest.mark.parametrize(("k", "n"), [(0, 0), (0, 7), (7, 7), (90, 100), (40, 100)])
@pytest.mark.parametrize("p0", [0.5, 0.9])
def test_closed_form_is_the_integral(k: int, n: int, p0: float) -> None:
    def ratio(q: float) -> float:
        return float((q / p0) ** k * ((1 - q) / (1 - p0)) ** (n - k))

    above = integrate.quad(ratio, p0, 1, epsabs=0, epsrel=1e-9)[0] / (1 - p0)
    below = integrate.quad(ratio, 0, p0, epsabs=0, epsrel=1e-9)[0] / p0
    assert np.exp(log_evidence_above(k, n, p0)) == pytest.approx(above, rel=1e-6)
    assert np.exp(log_evidence_below(k, n, p0)) == pytest.approx(below, rel=1e-6)


def test_numbers_stay_finite_where_powers_would_underflow() -> None:
    assert decide(99_000, 100_000, 0.5, 1e-3) == "yes"
    assert decide(1_000, 100_000, 0.99, 1e-3) == "no"
    assert decide(84_134, 100_000, 0.8413447, 1e-3) == "undecided"
    assert decide(0, 0, 0.8, 1e-3) == "undecided"


def test_typical_answers_take_a_small_part_of_100_000_draws() -> None:
    """Expected successes at p stand for the path."""
    for p, p0, most in ((0.999, 0.8413, 100), (0.9, 0.8413, 1000), (0.7, 0.8413, 200)):
        draws = np.arange(1, most)
        expected = np.floor(p * draws)
        evidence = log_evidence_above if p > p0 else log_evidence_below
        assert (evidence(expected, draws, p0) >= -np.log(0.001)).any()
