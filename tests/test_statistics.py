"""The exact statistics against their definitions, and the coverage that they claim."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lipcompile.statistics import (
    _GRID,
    PairedDifference,
    _sup_tail,
    _tail,
    difference_interval,
    exact_interval,
    lower_limit,
    mcnemar,
    sign_test,
)

Interval = Callable[[int, int, int], tuple[float, float]]


@cache
def exact(gained: int, lost: int, n: int) -> tuple[float, float]:
    return difference_interval(gained, lost, n)


def wald(gained: int, lost: int, n: int) -> tuple[float, float]:
    """The planted failure: the textbook's normal approximation."""
    difference = (gained - lost) / n
    error = np.sqrt(((gained + lost) / n - difference**2) / n)
    return difference - 1.96 * error, difference + 1.96 * error


# The interval of a paired difference


def enumerated_coverage(interval: Interval, n: int, p10: float, p01: float) -> float:
    """P(interval covers p10 - p01), summed over every outcome."""
    covered = 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            low, high = interval(gained, lost, n)
            if low <= p10 - p01 <= high:
                counts = [gained, lost, n - gained - lost]
                covered += stats.multinomial.pmf(counts, n, [p10, p01, 1 - p10 - p01])
    return covered


def simulated_coverage(interval: Interval, n: int, p10: float, p01: float) -> float:
    """Share of 2000 draws whose interval covers."""
    rng = np.random.default_rng([n, round(1e6 * p10), round(1e6 * p01)])
    draws = rng.multinomial(n, [p10, p01, 1 - p10 - p01], 2000)
    outcomes, times = np.unique(draws[:, :2], axis=0, return_counts=True)
    limits = np.array([interval(int(b), int(c), n) for b, c in outcomes])
    covers = (limits[:, 0] <= p10 - p01) & (p10 - p01 <= limits[:, 1])
    return float(times[covers].sum() / times.sum())


TRUTHS = [
    *[(0.0, 0.0), (0.02, 0.0), (0.0, 0.3), (0.05, 0.04), (0.2, 0.05), (0.1, 0.6), (0.5, 0.5)],
    *[(1.0, 0.0), (0.05, 0.95), (0.9, 0.0)],
]


@pytest.mark.parametrize("n", [1, 2, 5, 9])
@pytest.mark.parametrize("truth", TRUTHS, ids=str)
def test_interval_covers_as_claimed(n: int, truth: tuple[float, float]) -> None:
    # pmf sums carry rounding of about 1e-12.
    assert enumerated_coverage(exact, n, *truth) >= 0.95 - 1e-9


@pytest.mark.parametrize(
    ("n", "truth"),
    [(40, (0.02, 0.0)), (40, (0.1, 0.3)), (40, (0.5, 0.45)), (200, (0.04, 0.02))],
    ids=str,
)
def test_interval_covers_in_simulation(n: int, truth: tuple[float, float]) -> None:
    assert simulated_coverage(exact, n, *truth) >= 0.95


def test_planted_wald_interval_is_caught() -> None:
    assert enumerated_coverage(wald, 9, 0.05, 0.04) < 0.95
    assert simulated_coverage(wald, 40, 0.02, 0.0) < 0.95


@given(n=st.integers(1, 60), data=st.data())
def test_interval_is_ordered_holds_the_estimate_and_mirrors(
    n: int, data: st.DataObject
) -> None:
    gained = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, n - gained))
    low, high = exact(gained, lost, n)
    assert -1 <= low <= (gained - lost) / n <= high <= 1
    assert low < high
    assert exact(lost, gained, n) == (-high, -low)


@pytest.mark.parametrize(("m", "n"), [(0, 1), (0, 500), (30, 500), (6, 6)])
def test_no_difference_gives_an_interval_around_zero(m: int, n: int) -> None:
    low, high = exact(m // 2, m // 2, n)
    assert low == -high < 0


@pytest.mark.parametrize(("m", "n"), [(12, 12), (12, 200)])
def test_more_gained_among_as_many_moves_both_limits_up(m: int, n: int) -> None:
    limits = np.array([exact(gained, m - gained, n) for gained in range(m + 1)])
    assert (np.diff(limits, axis=0) >= 0).all()
    assert (np.diff(limits, axis=0).sum(axis=0) > 0).all()


def test_more_confidence_and_fewer_images_widen_it() -> None:
    low, high = difference_interval(14, 2, 500, 0.95)
    wider_low, wider_high = difference_interval(14, 2, 500, 0.99)
    assert wider_low < low < 0.024 < high < wider_high
    few_low, few_high = difference_interval(7, 1, 250, 0.95)
    assert few_low < low < high < few_high


def test_extreme_outcomes() -> None:
    assert exact(1, 0, 1)[1] == 1.0
    assert exact(1, 0, 1)[0] < -0.9
    low, high = exact(500, 0, 500)
    assert high == 1.0
    assert 0.98 < low < 1.0
    low, high = exact(0, 0, 500)
    # The two-sided limit of the share of 0 in 500 at nearly the same confidence.
    assert exact_interval(0, 500)[1] < high < exact_interval(0, 500, 0.999)[1]


def test_ten_thousand_images_are_nearly_normal() -> None:
    low, high = exact(600, 400, 10_000)
    wald_low, wald_high = wald(600, 400, 10_000)
    # Wider, by what maximising over q at confidence 0.999 costs.
    assert wald_low - 1e-3 < low < wald_low
    assert wald_high < high < wald_high + 1e-3


@pytest.mark.parametrize(("delta", "q"), [(-0.3, 0.5), (0.0, 0.4), (0.2, 0.2), (0.1, 1.0)])
@pytest.mark.parametrize("d", [-7, -2, 0, 3, 7])
def test_tail_is_that_of_the_trinomial(delta: float, q: float, d: int) -> None:
    n, p10, p01 = 7, (q + delta) / 2, (q - delta) / 2
    probabilities = np.clip([p10, p01, 1 - q], 0, 1)
    want = sum(
        stats.multinomial.pmf([b, c, n - b - c], n, probabilities)
        for b in range(n + 1)
        for c in range(n + 1 - b)
        if b - c >= d
    )
    got = _tail(delta, np.array([q]), d, n)[0]
    assert want - 1e-13 <= got <= want + 1e-11  # it is rounded up by at most 1e-12


@pytest.mark.parametrize(
    ("delta", "d", "n", "m"), [(0.0, 5, 40, 9), (0.01, 12, 500, 16), (-0.9, -3, 9, 9)]
)
def test_supremum_is_not_below_that_of_a_grid_a_hundred_times_finer(
    delta: float, d: int, n: int, m: int
) -> None:
    low, high = exact_interval(m, n, 0.999)
    dense = np.linspace(max(low, abs(delta)), high, 100 * _GRID)
    assert _sup_tail(delta, d, n, (low, high)) >= _tail(delta, dense, d, n).max() - 1e-5


# The tests of signs


@given(gained=st.integers(0, 300), lost=st.integers(0, 300))
def test_mcnemar_is_the_binomial_test(gained: int, lost: int) -> None:
    if gained + lost == 0:
        assert mcnemar(0, 0) == sign_test(0, 0) == 1.0
        return
    for alternative in ("two-sided", "greater"):
        want = stats.binomtest(gained, gained + lost, 0.5, alternative).pvalue
        assert mcnemar(gained, lost, alternative) == pytest.approx(want, rel=1e-9)
    assert sign_test(gained, lost) == mcnemar(gained, lost, "greater")


def test_sign_test_by_hand() -> None:
    assert sign_test(3, 0) == pytest.approx(1 / 8)
    assert sign_test(0, 3) == 1.0
    assert mcnemar(3, 0) == pytest.approx(1 / 4)
    assert mcnemar(2, 2) == 1.0


# The interval of a share


@given(n=st.integers(1, 400), data=st.data())
def test_exact_interval_inverts_the_binomial_tails(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    low, high = exact_interval(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    tail_low = stats.binom.sf(successes - 1, n, low)
    tail_high = stats.binom.cdf(successes, n, high)
    assert low == 0 if successes == 0 else tail_low == pytest.approx(0.025, rel=1e-6)
    assert high == 1 if successes == n else tail_high == pytest.approx(0.025, rel=1e-6)


def test_no_trials_tell_nothing() -> None:
    assert exact_interval(0, 0) == (0.0, 1.0)


# The result


def test_paired_difference_from_outcomes() -> None:
    before = np.array([True, True, False, False, True, False, False])
    after = np.array([True, False, True, True, True, False, True])
    result = PairedDifference.of(before, after)
    assert (result.n, result.gained, result.lost) == (7, 3, 1)
    assert result.difference == pytest.approx(after.mean() - before.mean())
    assert (result.low, result.high) == exact(3, 1, 7)
    assert result.p == mcnemar(3, 1) == pytest.approx(5 / 8)
    assert result.to_json() == {
        "n": 7,
        "gained": 3,
        "lost": 1,
        "difference": 2 / 7,
        "low": result.low,
        "high": result.high,
        "confidence": 0.95,
        "mcnemar_p": result.p,
    }
    assert str(result).startswith("+28.57 points (95 % interval -")
    assert str(result).endswith("n = 7, 3 gained, 1 lost, McNemar's exact p = 0.625)")


def test_equal_outcomes_show_no_difference() -> None:
    same = np.array([True, False, True])
    result = PairedDifference.of(same, same)
    assert (result.difference, result.p) == (0.0, 1.0)
    assert result.low == -result.high


# The one-sided limit


@pytest.mark.parametrize("n", [1, 20, 400])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_lower_limit_is_above_the_share_with_probability_alpha_at_most(
    n: int, alpha: float
) -> None:
    k = np.arange(n + 1)
    limits = np.array([lower_limit(int(i), n, alpha) for i in k])
    assert np.all(np.diff(limits) > 0)
    for p in (0.01, 0.3, 0.5, 0.8, 0.95, 0.999):
        assert stats.binom.pmf(k, n, p)[limits > p].sum() <= alpha
    just_below = limits[1:] * (1 - 1e-9)  # as large as it may be: the level is used up
    np.testing.assert_allclose(stats.binom.sf(k[1:] - 1, n, just_below), alpha, rtol=1e-5)


def test_planted_wald_limit_is_caught() -> None:
    k, n = np.arange(401), 400
    limits = k / n - 1.6449 * np.sqrt(k / n * (1 - k / n) / n)
    wrong = max(stats.binom.pmf(k, n, p)[limits > p].sum() for p in (0.8, 0.95, 0.999))
    assert wrong > 2 * 0.05


def test_lower_limit_at_its_ends() -> None:
    assert lower_limit(0, 10, 0.05) == 0.0
    assert lower_limit(0, 0, 0.05) == 0.0
    assert lower_limit(100_000, 100_000, 0.001) == pytest.approx(0.001**1e-5, rel=1e-11)
