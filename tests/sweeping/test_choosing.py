"""The rules of choice, by table."""

from __future__ import annotations

import numpy as np
import pytest

from lipcompile.errors import OptionError
from lipcompile.measure import LatencyRatio
from lipcompile.statistics import PairedDifference
from lipcompile.sweeping.choosing import (
    Candidate,
    explain,
    judge,
    limits,
    most_robust,
    strongest,
    to_json,
)
from lipcompile.sweeping.settings import Setting
from lipcompile.sweeping.strength import LayerStrength
from lipcompile.sweeping.trial import Answers, Trial

FREE = limits(True, max_accuracy_drop=1.0)


def answers(lost: int, n: int = 100, gained: int = 0, labelled: bool = True) -> Answers:
    """The original is right everywhere but on the last `gained`."""
    labels = np.zeros(n, int)
    original, hardened = np.zeros(n, int), np.zeros(n, int)
    original[n - gained :], hardened[:lost] = 1, 1
    return Answers.of(original, hardened, labels if labelled else None, np.arange(n))


def worst(difference: int, n: int = 100) -> PairedDifference:
    """So many images more are robust; ten are lost anyway."""
    before, after = np.zeros(n, bool), np.zeros(n, bool)
    before[:10], after[10 : 20 + difference] = True, True
    return PairedDifference.of(before, after)


def candidate(
    name: str = "a",
    lost: int = 0,
    ratio: float | None = 0.5,
    gain: int | None = None,
    robust: float | None = None,
    latency: float = 1.0,
    masked: bool = False,
    obstacle: str | None = None,
) -> Candidate:
    layers = () if ratio is None else (LayerStrength("x", 0.1, 0.1, 0.1, ratio, ratio),)
    timed = LatencyRatio(latency, latency, latency, 40)
    setting = Setting(name, 2**-7)
    trial = Trial(setting, None, np.zeros(100, int), timed, layers)
    found = None if gain is None else worst(gain)
    share = 0.1 + (gain or 0) / 100 if robust is None else robust
    return Candidate(trial, answers(lost), obstacle, found, share, masked)


def first(found: Candidate | None) -> str | None:
    return None if found is None else found.name.partition(" ")[0]


# Limits


@pytest.mark.parametrize(
    ("drop", "lost", "holds"),
    [(0.02, 2, True), (0.02, 3, False), (None, 1, True), (None, 2, False), (0.0, 0, True)],
)
def test_a_drop_at_the_very_bound_is_within(
    drop: float | None, lost: int, holds: bool
) -> None:
    found = Candidate.of(candidate().trial, answers(lost), limits(True, drop))
    assert (found.obstacle is None) == holds


@pytest.mark.parametrize("percent", range(1, 100))
def test_without_labels_a_drop_is_a_lack_of_agreement_to_the_very_bound(percent: int) -> None:
    gates = limits(False, percent / 100)
    assert gates.max_accuracy_drop is None
    least = gates.min_agreement
    assert least is not None
    for lost, holds in ((percent, True), (percent + 1, False)):
        if lost <= 100:
            said = answers(lost, labelled=False)
            assert said.drop == pytest.approx(lost / 100)
            assert (Candidate.of(candidate().trial, said, gates).obstacle is None) == holds


def test_the_stricter_agreement_counts() -> None:
    assert limits(False, 0.05, min_agreement=0.99).min_agreement == 0.99
    assert limits(False, 0.05, min_agreement=0.5).min_agreement == 0.95
    assert limits(True, 0.05, min_agreement=0.5).max_accuracy_drop == 0.05
    assert limits(True).max_accuracy_drop == 0.01


@pytest.mark.parametrize("labelled", [True, False])
def test_limits_out_of_range(labelled: bool) -> None:
    with pytest.raises(OptionError, match=r"--max-accuracy-drop 2 is out of range"):
        limits(labelled, 2)
    with pytest.raises(OptionError, match=r"--min-robust-accuracy -1 is out of range"):
        limits(labelled, min_robust_accuracy=-1)


def test_each_limit_is_an_obstacle() -> None:
    trial = candidate(latency=2.0).trial
    strict = limits(True, 0.0, max_latency_ratio=1.5, min_agreement=0.999)
    obstacle = Candidate.of(trial, answers(1), strict).obstacle
    assert obstacle is not None
    assert obstacle.count("; ") == 2
    for flag in ("--max-accuracy-drop", "--min-agreement", "--max-latency-ratio"):
        assert flag in obstacle
    assert judge(limits(True, 0.0), answers(0, gained=5), None)[0].holds


def test_what_cannot_be_had_is_no_candidate() -> None:
    found = Candidate.of(Trial(Setting("hard", 0.1), "no such luck"), None, FREE)
    assert found.obstacle == "it cannot be had: no such luck"
    said = to_json(found, None)
    assert (said["admitted"], said["reason"]) == (False, found.obstacle)
    assert said["accuracy"] is said["agreement"] is said["latency"] is None


# With attacks


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # the highest worst case, whatever the singular ratios
        ([("a", {"gain": 1}), ("b", {"gain": 5, "ratio": 0.9}), ("c", {"gain": 4})], "b"),
        # ... of those that are better than the original, which moves with the attacks
        ([("a", {"gain": 4, "robust": 0.5}), ("b", {"gain": 2, "robust": 0.52})], "b"),
        ([("a", {"gain": 0, "robust": 0.9}), ("b", {"gain": 2, "robust": 0.5})], "b"),
        ([("a", {"gain": -1, "robust": 0.5}), ("b", {"gain": 0, "robust": 0.4})], "b"),
        # masked is out, however high
        ([("a", {"gain": 50, "masked": True}), ("b", {"gain": 1})], "b"),
        # not admitted is out
        ([("a", {"gain": 50, "obstacle": "slow"}), ("b", {"gain": 1})], "b"),
        # a tie goes to the smaller loss, then to the first
        ([("a", {"gain": 5, "lost": 2}), ("b", {"gain": 5, "lost": 1})], "b"),
        ([("a", {"gain": 5, "latency": 1.3}), ("b", {"gain": 5, "latency": 1.2})], "a"),
        ([("a", {"gain": 5}), ("b", {"gain": 5})], "a"),
        ([("a", {"gain": 5, "masked": True})], None),
        ([("a", {})], None),  # not attacked
        ([], None),
    ],
)
def test_the_best_under_attack(
    rows: list[tuple[str, dict[str, object]]], expected: str | None
) -> None:
    found = [candidate(name, **what) for name, what in rows]  # type: ignore[arg-type]
    assert first(most_robust(found)) == expected


# Without


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("a", {"ratio": 0.9}), ("b", {"ratio": 0.4}), ("c", {"ratio": 0.5})], "b"),
        ([("a", {"ratio": 0.1, "obstacle": "slow"}), ("b", {"ratio": 0.4})], "b"),
        ([("a", {"ratio": None}), ("b", {"ratio": 0.99})], "b"),
        ([("a", {"ratio": 1.0})], None),  # no more than what is 0 anyway
        ([("a", {"ratio": 1.0 - 1e-9})], None),  # nor by more than rounding
        ([("a", {"ratio": 0.5}), ("b", {"ratio": 0.5 - 1e-9})], "a"),  # a tie
        ([("a", {"lost": 1}), ("b", {"lost": 0})], "b"),
        ([("a", {"latency": 1.3}), ("b", {"latency": 1.2})], "a"),
        ([("a", {"ratio": None})], None),  # an ensemble has no weight that shrinks
        ([("a", {"obstacle": "slow"})], None),
    ],
)
def test_the_best_without_attacks(
    rows: list[tuple[str, dict[str, object]]], expected: str | None
) -> None:
    found = [candidate(name, **what) for name, what in rows]  # type: ignore[arg-type]
    assert first(strongest(found, 1.0)) == expected


# In words


def test_equal_to_the_original_is_not_better() -> None:
    found = [candidate(gain=0)]
    text = explain(most_robust(found), found, attacked=True)
    assert "none has a higher worst case than the original" in text
    assert "100 images cannot tell this from no change; keep the original" in text
    better = [candidate(gain=1)]
    text = explain(most_robust(better), better, attacked=True)
    assert "of those that are better than the original, a 2^-7 has the highest" in text


def test_why_none() -> None:
    masked = [candidate(gain=5, masked=True), candidate(obstacle="slow")]
    text = explain(most_robust(masked), masked, attacked=True)
    assert "of 2 settings, 1 kept within the limits, and every one of them failed a" in text
    alone = [candidate(ratio=None)]
    assert "pass --eps" in explain(strongest(alone, 1.0), alone, attacked=False)
    idle = [candidate(ratio=1.0)]
    assert "none of them shrinks the weights" in explain(None, idle, attacked=False)
    over = [candidate("a", lost=9, obstacle="too much"), candidate("b", lost=3, obstacle="x")]
    text = explain(None, over, attacked=False)
    assert text == (
        "no setting keeps within the limits; nearest was b 2^-7: x; lower --cr, or allow more"
    )
    broken = [Candidate.of(Trial(Setting("hard", 0.1), "no such luck"), None, FREE)]
    text = explain(None, broken, attacked=True)
    assert text == "no setting can be had; the first, hard 0.1: no such luck"


def test_without_attacks_nothing_is_said_about_robustness() -> None:
    found = [candidate(ratio=0.25)]
    text = explain(strongest(found, 1.0), found, attacked=False)
    assert "mean 0.250" in text and "says nothing about robustness: pass --eps" in text
