"""Which draws an image needs, and what follows from their counts.

    certify   n0 draws select the class; of n other ones k give it. With p the exact one-sided
              Clopper-Pearson limit of k of n at alpha, the radius is sigma * Phi^-1(p) where
              p > 1/2; else abstain. (CERTIFY of arXiv 1902.02918, figure 2.)
    predict   Of n draws k give the first and l the second class: the first, where the exact
              two-sided test of k of k + l against 1/2 has p <= alpha; else abstain. (PREDICT.)
    test      n0 draws select the class; others are made until `sequential.decide` tells
              whether its probability is at least Phi(r / sigma), or n were made: "undecided",
              which certifies nothing. Looks are at fixed numbers of draws, so that batches and
              interruptions change nothing.

A draw whose scores are NaN counts for no class, and counts as a draw. Everything here is a
function of counts; nothing is drawn.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from lipcompile.calibration.json_values import of_type
from lipcompile.certifying.smoothing.noise import BLOCK, Stream
from lipcompile.certifying.smoothing.options import SmoothingOptions
from lipcompile.certifying.smoothing.outcome import Answer, Outcome
from lipcompile.certifying.smoothing.sequential import decide
from lipcompile.statistics import lower_limit, mcnemar

_FIRST_LOOK = 4 * BLOCK
_GROWTH = 8  # a look when the draws have grown by an eighth: few overshoot, few are looked at


@dataclass(frozen=True, slots=True)
class Tally:
    """What the draws of one image gave so far.

    Attributes:
        selected: Counts by class of the draws that select; empty before any.
        selection: How many of these draws were made.
        counted: Counts by class of the draws that count; empty before any.
        draws: How many of these were made.
    """

    selected: tuple[int, ...] = ()
    selection: int = 0
    counted: tuple[int, ...] = ()
    draws: int = 0

    def made(self, stream: Stream) -> int:
        return self.selection if stream is Stream.SELECT else self.draws

    def plus(self, stream: Stream, counts: np.ndarray, draws: int) -> Tally:
        """With the counts of further draws, int64 [K]."""
        if stream is Stream.SELECT:
            return replace(
                self, selected=_sum(self.selected, counts), selection=self.selection + draws
            )
        return replace(self, counted=_sum(self.counted, counts), draws=self.draws + draws)

    @property
    def top(self) -> int | None:
        """The class most often selected, the first of several; None where all were NaN."""
        return int(np.argmax(self.selected)) if any(self.selected) else None

    def to_json(self) -> dict[str, Any]:
        return {
            "selected": list(self.selected),
            "selection": self.selection,
            "counted": list(self.counted),
            "draws": self.draws,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Tally:
        """Reads what `to_json` gave.

        Raises:
            KeyError, TypeError: It is damaged.
        """
        return cls(
            tuple(of_type(int, count) for count in content["selected"]),
            of_type(int, content["selection"]),
            tuple(of_type(int, count) for count in content["counted"]),
            of_type(int, content["draws"]),
        )


class Want(NamedTuple):
    """Draws to make: of `stream`, up to number `until`."""

    stream: Stream
    until: int


def next_draws(options: SmoothingOptions, tally: Tally) -> Want | None:
    """What to draw next; None where the outcome is known."""
    if options.procedure == "predict":
        return Want(Stream.COUNT, options.n) if tally.draws < options.n else None
    if tally.selection < options.n0:
        return Want(Stream.SELECT, options.n0)
    if tally.top is None or tally.draws >= options.n:
        return None
    if options.procedure == "certify":
        return Want(Stream.COUNT, options.n)
    steps = looks(options.n)
    place = bisect_right(steps, tally.draws)
    if place and steps[place - 1] == tally.draws and _answer(options, tally) != "undecided":
        return None
    return Want(Stream.COUNT, steps[place])


@lru_cache(maxsize=8)
def looks(n: int) -> tuple[int, ...]:
    """At how many draws the sequential test is looked at, up to n, ascending."""
    steps, draws = [], 0
    while draws < n:
        step = max(_FIRST_LOOK, draws // _GROWTH // BLOCK * BLOCK)
        draws = min(draws + step, n)
        steps.append(draws)
    return tuple(steps)


def conclude(options: SmoothingOptions, tally: Tally) -> Outcome:
    """The outcome, once `next_draws` wants no more."""
    if options.procedure == "predict":
        return _predicted(options, tally)
    top = tally.top
    if top is None:
        nothing: Answer = "abstained" if options.procedure == "certify" else "undecided"
        return Outcome(nothing, None, 0.0, None, 0, tally.draws, tally.selection)
    if options.procedure == "certify":
        return _certified(options, tally, top)
    return _tested(options, tally, top)


def _certified(options: SmoothingOptions, tally: Tally, top: int) -> Outcome:
    successes = tally.counted[top]
    p = lower_limit(successes, tally.draws, options.alpha)
    numbers = top, successes, tally.draws, tally.selection, p
    if p <= 0.5:
        return Outcome("abstained", None, 0.0, *numbers)
    return Outcome("certified", top, options.sigma * float(special.ndtri(p)), *numbers)


def _predicted(options: SmoothingOptions, tally: Tally) -> Outcome:
    counts = np.array(tally.counted)
    first, second = np.argsort(-counts, kind="stable")[:2]
    most, runner_up = int(counts[first]), int(counts[second])
    is_clear = most > 0 and mcnemar(most, runner_up) <= options.alpha
    top = int(first) if most else None
    if not is_clear:
        return Outcome("abstained", None, 0.0, top, most, tally.draws, 0)
    return Outcome("predicted", top, 0.0, top, most, tally.draws, 0)


def _tested(options: SmoothingOptions, tally: Tally, top: int) -> Outcome:
    answer = _answer(options, tally)
    numbers = top, tally.counted[top], tally.draws, tally.selection
    if answer != "yes":
        return Outcome(answer, None, 0.0, *numbers)
    assert options.radius is not None
    return Outcome("yes", top, options.radius, *numbers, options.needed_probability)


def _answer(options: SmoothingOptions, tally: Tally) -> Answer:
    assert tally.top is not None
    successes = tally.counted[tally.top]
    return decide(successes, tally.draws, options.needed_probability, options.alpha)


def _sum(counts: tuple[int, ...], further: np.ndarray) -> tuple[int, ...]:
    known = counts or (0,) * len(further)
    return tuple(a + int(b) for a, b in zip(known, further, strict=True))
