"""The greedy search: every step stays within the limits, and none is lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from lipcompile.sweeping.per_layer import search
from lipcompile.sweeping.settings import Setting
from lipcompile.sweeping.trial import Answers, Bench
from tests.sweeping.benches import bench, classifier, labelled, pixels

C_RS = (2**-6, 2**-4, 2**-3, 2**-2, 2**-1)
SETTINGS = [Setting("hard", c_r) for c_r in C_RS]
DROP = 0.1


@pytest.fixture(scope="module")
def made() -> Bench:
    proto = classifier(seed=2)
    return bench(proto, pixels(60), labelled(proto, 80), SETTINGS)


def within(made: Bench, drop: float = DROP) -> Callable[[np.ndarray], bool]:
    labels = made.examples.labels
    rows = np.arange(made.examples.count)

    def keeps(classes: np.ndarray) -> bool:
        return Answers.of(made.original.classes, classes, labels, rows).drop <= drop

    return keeps


def ratios_of(made: Bench, setting: Setting) -> dict[str, float]:
    assert setting.c_r is not None and made.strengths is not None
    default = {row.layer: setting.c_r for row in made.strengths.baseline}
    return {**default, **setting.by_layer}


def recorded(made: Bench, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """Fills with what the search tries, in order."""
    tried: list[dict[str, float]] = []
    real = Bench.answers

    def answers(self: Bench, setting: Setting) -> np.ndarray | None:
        tried.append(ratios_of(made, setting))
        return real(self, setting)

    monkeypatch.setattr(Bench, "answers", answers)
    return tried


def test_each_accepted_step_was_admitted_and_is_one_of_all_combinations(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [row.layer for row in made.strengths.baseline]  # type: ignore[union-attr]
    keeps, admitted = within(made), {}
    for combination in itertools.product(C_RS, repeat=len(layers)):
        by_layer = dict(zip(layers, combination, strict=True))
        setting = Setting("hard", C_RS[0], by_layer=by_layer)
        classes = made.answers(setting)
        admitted[combination] = classes is not None and keeps(classes)
    assert True in admitted.values() and False in admitted.values()
    tried = recorded(made, monkeypatch)
    notes: list[str] = []
    found = search(made, SETTINGS[0], C_RS, keeps, notes.append)
    assert found is not None
    now = dict.fromkeys(layers, C_RS[0])
    for step, note in zip(tried, notes, strict=True):
        changed = [layer for layer in layers if step[layer] != now[layer]]
        assert len(changed) == 1  # one layer, one c_r up
        assert C_RS.index(step[changed[0]]) == C_RS.index(now[changed[0]]) + 1
        holds = admitted[tuple(step.values())]
        assert ("kept" in note) == holds and ("stuck" in note) != holds
        now = step if holds else now
    assert ratios_of(made, found) == now
    assert admitted[tuple(now.values())]


def test_it_ends_where_no_layer_can_go_further(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeps = within(made)
    found = search(made, SETTINGS[0], C_RS, keeps, lambda _: None)
    assert found is not None
    tried = recorded(made, monkeypatch)
    again = search(made, SETTINGS[0], C_RS, keeps, lambda _: None)
    assert again == found
    stuck = {
        layer
        for layer in ratios_of(made, found)
        for step in tried
        if C_RS.index(step[layer]) > C_RS.index(ratios_of(made, found)[layer])
    }
    finished = {layer for layer, c_r in ratios_of(made, found).items() if c_r == C_RS[-1]}
    assert stuck | finished == set(ratios_of(made, found))


def test_with_no_limit_every_layer_reaches_the_largest(made: Bench) -> None:
    found = search(made, SETTINGS[1], C_RS, lambda _: True, lambda _: None)
    assert found is not None
    assert set(ratios_of(made, found).values()) == {C_RS[-1]}
    assert found.c_r == C_RS[1]


def test_nothing_is_found_where_no_step_is_admitted_or_none_is_left(made: Bench) -> None:
    assert search(made, SETTINGS[0], C_RS, lambda _: False, lambda _: None) is None
    assert search(made, SETTINGS[-1], C_RS, lambda _: True, lambda _: None) is None


def test_a_step_that_cannot_be_built_is_not_taken(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bench, "answers", lambda self, setting: None)
    assert search(made, SETTINGS[0], C_RS, lambda _: True, lambda _: None) is None


def test_the_first_step_is_the_one_that_shrinks_most(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made.strengths is not None
    rows = made.strengths.rows

    def gain(layer: str) -> float:
        now, then = (rows[layer, c_r].singular_mean or 0.0 for c_r in C_RS[:2])
        return now - then

    tried = recorded(made, monkeypatch)
    search(made, SETTINGS[0], C_RS, lambda _: True, lambda _: None)
    layers = [row.layer for row in made.strengths.baseline]
    (first,) = [layer for layer in layers if tried[0][layer] != C_RS[0]]
    assert gain(first) == max(gain(layer) for layer in layers)
    assert len({gain(layer) for layer in layers}) == len(layers)


def test_planted_search_that_takes_every_step_is_caught(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The law of the first test would not hold of it: its result is not admitted."""
    found = search(made, SETTINGS[0], C_RS, lambda _: True, lambda _: None)
    assert found is not None
    classes = made.answers(found)
    assert classes is not None and not within(made)(classes)
