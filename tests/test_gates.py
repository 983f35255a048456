"""Each gate, at its bound and beside it."""

from __future__ import annotations

import pytest

from lipcompile.errors import OptionError
from lipcompile.findings import Finding
from lipcompile.gates import NOT_RUN, Gates
from lipcompile.measure import LatencyRatio

RATIO = LatencyRatio(1.1, 1.0, 1.2, 50)


def test_what_nobody_asked_for_is_not_judged() -> None:
    gates = Gates()
    assert gates.agreement(0.0) == gates.agreement(None) == gates.latency(None) == ()
    assert gates.accuracy_drop("clean", 1.0) == gates.robust_accuracy(0.0) == ()


def judged(found: tuple[Finding, ...]) -> tuple[str, bool | None, str]:
    (finding,) = found
    return finding.name, finding.holds, finding.evidence


@pytest.mark.parametrize(
    ("least", "holds", "word"), [(0.9, True, "within"), (0.91, False, "below")]
)
def test_agreement(least: float, holds: bool, word: str) -> None:
    text = f"top-1 agreement is 90.00 %, {word} --min-agreement {100 * least:.2f} %"
    expected = ("--min-agreement", holds, text)
    assert judged(Gates(min_agreement=least).agreement(0.9)) == expected


def test_what_cannot_be_measured_does_not_hold() -> None:
    gates = Gates(min_agreement=0.0, max_latency_ratio=1e9)
    name, holds, text = judged(gates.agreement(None))
    assert (holds, text) == (
        False,
        "top-1 agreement cannot be measured (the first output is no vector of class scores)",
    )
    assert judged(gates.agreement(None, NOT_RUN))[2].endswith("(the models did not both run)")
    name, holds, text = judged(gates.latency(None))
    expected = "latency ratio cannot be measured (the models did not both run)"
    assert (name, holds, text) == ("--max-latency-ratio", False, expected)


@pytest.mark.parametrize(
    ("most", "holds", "word"), [(1.1, True, "within"), (1.09, False, "above")]
)
def test_latency(most: float, holds: bool, word: str) -> None:
    text = f"latency ratio is 1.100, {word} --max-latency-ratio {most:g}"
    assert judged(Gates(max_latency_ratio=most).latency(RATIO)) == (
        "--max-latency-ratio",
        holds,
        text,
    )


@pytest.mark.parametrize(
    ("drop", "holds", "text"),
    [
        (0.02, True, "clean accuracy fell by 2.00 %, within --max-accuracy-drop 2.00 %"),
        (0.03, False, "clean accuracy fell by 3.00 %, more than --max-accuracy-drop 2.00 %"),
        (0.0, True, "clean accuracy did not fall, within --max-accuracy-drop 2.00 %"),
        (-0.5, True, "clean accuracy did not fall, within --max-accuracy-drop 2.00 %"),
    ],
)
def test_accuracy_drop(drop: float, holds: bool, text: str) -> None:
    expected = ("--max-accuracy-drop, clean", holds, text)
    assert judged(Gates(max_accuracy_drop=0.02).accuracy_drop("clean", drop)) == expected


@pytest.mark.parametrize(
    ("least", "holds", "word"), [(0.5, True, "within"), (0.6, False, "below")]
)
def test_robust_accuracy(least: float, holds: bool, word: str) -> None:
    text = f"worst-case accuracy is 50.00 %, {word} --min-robust-accuracy {100 * least:.2f} %"
    found = judged(Gates(min_robust_accuracy=least).robust_accuracy(0.5))
    assert found == ("--min-robust-accuracy", holds, text)


@pytest.mark.parametrize("value", [-0.01, 1.01, 30, float("nan"), float("inf")])
@pytest.mark.parametrize("gate", ["min_agreement", "max_accuracy_drop", "min_robust_accuracy"])
def test_shares_out_of_range(gate: str, value: float) -> None:
    match = (
        f"--{gate.replace('_', '-')} .* is out of range: give a share from 0 to 1, for example"
    )
    with pytest.raises(OptionError, match=match):
        Gates(**{gate: value})


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_ratios_out_of_range(value: float) -> None:
    match = "--max-latency-ratio .* is out of range: give a ratio such as 1.06"
    with pytest.raises(OptionError, match=match):
        Gates(max_latency_ratio=value)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_shares_at_the_ends_of_the_range(value: float) -> None:
    Gates(min_agreement=value, max_accuracy_drop=value, min_robust_accuracy=value)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (
            Gates(min_agreement=0.95).agreement(0.949999),
            "top-1 agreement is 94.9999 %, below --min-agreement 95.0000 %",
        ),
        (
            Gates(max_accuracy_drop=0.01).accuracy_drop("clean", 0.01001),
            "clean accuracy fell by 1.001 %, more than --max-accuracy-drop 1.000 %",
        ),
        (
            Gates(min_robust_accuracy=0.3).robust_accuracy(0.29999),
            "worst-case accuracy is 29.999 %, below --min-robust-accuracy 30.000 %",
        ),
        (
            Gates(max_latency_ratio=1.06).latency(LatencyRatio(1.0601, 1.0, 1.2, 50)),
            "latency ratio is 1.0601, above --max-latency-ratio 1.06",
        ),
        (
            Gates(max_latency_ratio=1.0600001).latency(LatencyRatio(1.06, 1.0, 1.2, 50)),
            "latency ratio is 1.0600000, within --max-latency-ratio 1.0600001",
        ),
    ],
)
def test_numbers_near_the_bound_are_told_apart(found: tuple[Finding, ...], text: str) -> None:
    assert judged(found)[2] == text


def test_a_difference_in_the_last_bit_is_told() -> None:
    text = judged(Gates(max_accuracy_drop=0.1).accuracy_drop("clean", 0.3 - 0.2 + 1e-16))[2]
    measured, bound = (words.split(" %")[0] for words in text.split(" by ")[1].split("drop "))
    assert float(measured) > float(bound)
