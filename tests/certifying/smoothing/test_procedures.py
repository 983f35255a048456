"""What follows from counts: the guarantees of the three procedures, and their edges."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from lipcompile.certifying.smoothing.noise import Stream
from lipcompile.certifying.smoothing.options import SmoothingOptions
from lipcompile.certifying.smoothing.outcome import Outcome
from lipcompile.certifying.smoothing.procedures import Tally, conclude, looks, next_draws
from lipcompile.errors import OptionError
from lipcompile.statistics import lower_limit

ALPHA = 0.05
RUNS = 4000


def run(
    options: SmoothingOptions, probabilities: list[float], rng: np.random.Generator
) -> Outcome:
    """Draws classes with these probabilities; what is left of 1 are NaN."""
    tally, rest = Tally(), [*probabilities, max(0.0, 1 - sum(probabilities))]
    while (want := next_draws(options, tally)) is not None:
        made = want.until - tally.made(want.stream)
        part = int(rng.integers(1, made + 1))  # as an interruption would leave it
        tally = tally.plus(want.stream, rng.multinomial(part, rest)[:-1], part)
    return conclude(options, tally)


# CERTIFY


@cache
def radius_of(successes: int, n: int) -> float:
    tally = Tally((1, 0), 1, (successes, n - successes), n)
    return conclude(SmoothingOptions(1.0, n0=1, n=n, alpha=ALPHA), tally).radius_l2


@pytest.mark.parametrize("p", [0.5, 0.6, 0.9, 0.999])
def test_radius_is_too_large_with_probability_alpha_at_most(p: float) -> None:
    n = 200
    true = float(stats.norm.ppf(p))
    k = np.arange(n + 1)
    wrong = np.array([radius_of(int(i), n) > max(true, 0) for i in k])
    assert stats.binom.pmf(k, n, p)[wrong].sum() <= ALPHA


def test_class_selected_by_the_draws_that_count_is_caught() -> None:
    """The planted failure: of two even classes, the larger count is certified too often."""
    rng, n = np.random.default_rng(0), 100
    counts = rng.binomial(n, 0.5, RUNS)
    selected_apart = np.mean([radius_of(int(k), n) > 0 for k in counts])
    selected_by_itself = np.mean([radius_of(int(max(k, n - k)), n) > 0 for k in counts])
    limit = stats.binom.isf(1e-6, RUNS, ALPHA) / RUNS
    assert selected_apart <= limit < selected_by_itself


def test_certify_selects_then_counts() -> None:
    options = SmoothingOptions(0.5, n0=10, n=1000)
    outcome = run(options, [0.05, 0.9, 0.05], np.random.default_rng(0))
    assert (outcome.answer, outcome.label, outcome.top) == ("certified", 1, 1)
    assert (outcome.selection, outcome.draws) == (10, 1000)
    assert outcome.p_lower == lower_limit(outcome.successes, 1000, 0.001)
    assert outcome.radius_l2 == pytest.approx(0.5 * stats.norm.ppf(outcome.p_lower))


def test_draws_that_give_nan_count_as_draws() -> None:
    options = SmoothingOptions(1.0, n0=10, n=1000)
    half = run(options, [0.45, 0.0], np.random.default_rng(0))
    assert (half.answer, half.label, half.radius_l2) == ("abstained", None, 0.0)
    assert half.top == 0
    nothing = run(options, [0.0, 0.0], np.random.default_rng(0))
    assert (nothing.answer, nothing.top, nothing.draws) == ("abstained", None, 0)


# PREDICT


def test_predict_names_a_wrong_class_with_probability_alpha_at_most() -> None:
    options = SmoothingOptions(1.0, "predict", n=100, alpha=ALPHA)
    k = np.arange(101)
    said = [
        conclude(options, Tally(counted=(int(i), 100 - int(i)), draws=100)).label for i in k
    ]
    for p in (0.5, 0.52, 0.7):
        wrong = np.array([label == 1 for label in said])
        assert stats.binom.pmf(k, 100, p)[wrong].sum() <= ALPHA
    assert said[100] == 0
    assert said[50] is None
    assert said[0] == 1


def test_predict_of_nothing_but_nan_abstains() -> None:
    options = SmoothingOptions(1.0, "predict", n=10)
    outcome = run(options, [0.0, 0.0], np.random.default_rng(0))
    assert (outcome.answer, outcome.label, outcome.top) == ("abstained", None, None)


# TEST


def sequential(radius: float, n: int = 2000, alpha: float = ALPHA) -> SmoothingOptions:
    return SmoothingOptions(1.0, "test", n0=20, n=n, alpha=alpha, radius=radius)


def test_yes_is_said_with_probability_alpha_at_most() -> None:
    options, rng = sequential(0.5), np.random.default_rng(0)
    p0 = float(stats.norm.cdf(0.5))
    answers = [run(options, [p0, 1 - p0], rng).answer for _ in range(300)]
    for wrong in ("yes", "no"):
        assert stats.binom.sf(answers.count(wrong) - 1, len(answers), ALPHA) > 1e-6
    assert set(answers) == {"yes", "no", "undecided"}


def test_answers_come_early_and_are_those_of_certify() -> None:
    rng = np.random.default_rng(0)
    for p, answer in ((0.99, "yes"), (0.5, "no")):
        outcome = run(sequential(1.0, 100_000, 0.001), [p, 1 - p], rng)
        assert outcome.answer == answer
        assert outcome.draws <= 300
        assert outcome.radius_l2 == (1.0 if answer == "yes" else 0.0)
        assert outcome.label == (0 if answer == "yes" else None)


def test_budget_ends_as_undecided_which_certifies_nothing() -> None:
    p0 = float(stats.norm.cdf(1.0))
    outcome = run(sequential(1.0, 500, 0.001), [p0, 1 - p0], np.random.default_rng(1))
    assert (outcome.answer, outcome.label, outcome.radius_l2) == ("undecided", None, 0.0)
    assert outcome.draws == 500
    assert run(sequential(1.0), [0.0, 0.0], np.random.default_rng(0)).answer == "undecided"


def test_parts_of_any_size_stop_at_the_same_draw() -> None:
    """Otherwise a batch size, or an interruption, would change the answer."""
    options, rng = sequential(1.0), np.random.default_rng(3)
    classes = rng.random(2000) > 0.9  # class 0 on nine of ten draws
    found = set()
    for step in (1, 16, 50, 2000):
        tally = Tally().plus(Stream.SELECT, np.array([20, 0]), 20)
        while (want := next_draws(options, tally)) is not None:
            stop = min(tally.draws + step, want.until)
            part = np.bincount(classes[tally.draws : stop], minlength=2)
            tally = tally.plus(Stream.COUNT, part, stop - tally.draws)
        found.add(conclude(options, tally))
    assert len(found) == 1


def test_looks_grow_by_an_eighth_and_end_at_n() -> None:
    steps = looks(100_000)
    assert steps[0] == 64
    assert steps[-1] == 100_000
    assert all(b - a <= max(64, a / 8) for a, b in pairwise(steps))
    assert len(steps) < 100
    assert looks(10) == (10,)


# Options and outcomes


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sigma": 0.0}, r"sigma = 0 is out of range: it must be above 0, in pixel units"),
        ({"sigma": float("nan")}, "sigma = nan is out of range"),
        ({"alpha": 0.5}, r"alpha = 0.5 is out of range: .*between 0 and 1/2"),
        ({"alpha": 0.0}, "alpha = 0 is out of range"),
        ({"n": 0}, "n0 = 100, n = 0: both numbers of draws must be at least 1"),
        ({"n0": 0}, "n0 = 0"),
        ({"seed": -1}, "seed = -1 is negative"),
        ({"batch": 0}, "batch = 0 is out of range"),
        ({"procedure": "guess"}, "procedure 'guess' .* use certify, predict, test"),
        ({"procedure": "test"}, "'test' asks about a radius"),
        ({"radius": 1.0}, "'certify' with radius = 1.0: 'test' asks"),
        ({"procedure": "test", "radius": 0.0}, "radius = 0 is out of range"),
        ({"procedure": "test", "radius": 9.0}, r"at most 8 sigma = 8"),
        ({"procedure": "test", "radius": float("nan")}, "radius = nan is out of range"),
    ],
)
def test_options_that_are_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        SmoothingOptions(**{"sigma": 1.0, **options})  # type: ignore[arg-type]


def test_outcomes_and_tallies_come_back_from_json() -> None:
    for outcome in (
        Outcome("certified", 1, 0.25, 1, 90, 100, 10, 0.8),
        Outcome("undecided", None, 0.0, None, 0, 0, 10),
    ):
        assert Outcome.from_json(outcome.to_json()) == outcome
    tally = Tally((1, 2), 3, (4, 5), 9)
    assert Tally.from_json(tally.to_json()) == tally
    with pytest.raises(ValueError, match="no such answer"):
        Outcome.from_json({**outcome.to_json(), "answer": "sure"})
    with pytest.raises(TypeError):
        Tally.from_json({**tally.to_json(), "draws": True})
