"""Gates hold or fail on results made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lipcompile.auditing.budget import Budget
from lipcompile.auditing.gates import judge
from lipcompile.auditing.masking import Check
from lipcompile.auditing.results import AuditResult, ModelOutcome
from lipcompile.findings import Finding, failures
from lipcompile.gates import Gates
from lipcompile.measure import LatencyRatio
from lipcompile.statistics import PairedDifference

COUNT = 100
BELOW = "worst-case accuracy is 50.00 %, below --min-robust-accuracy 51.00 %"
CLEAN = "clean accuracy fell by 7.00 %, more than --max-accuracy-drop 6.00 %"
WORST = "worst-case accuracy fell by 10.00 %, more than --max-accuracy-drop 6.00 %"
UNDECIDED = (
    "the gates cannot be decided: masking checks failed, so the worst case of 50.00 % is only "
    "an upper bound"
)


def outcome(clean: int, robust: int) -> ModelOutcome:
    first = np.arange(COUNT)
    nothing = np.zeros((0, 1, 2, 2), np.float32)
    return ModelOutcome("net.onnx", "sha256:0", first < clean, first < robust, nothing)


def result(
    original: tuple[int, int] = (90, 60),
    hardened: tuple[int, int] = (83, 50),
    checks: tuple[bool | None, ...] = (True, None),
) -> AuditResult:
    """Clean and worst-case accuracy of both models in percent, and what the checks said."""
    before, after = outcome(*original), outcome(*hardened)
    return AuditResult(
        original=before,
        hardened=after,
        images=np.zeros((COUNT, 1, 2, 2), np.float32),
        labels=np.zeros(COUNT, np.int64),
        names=("",) * COUNT,
        data={},
        budget=Budget(0.1),
        attacks={},
        run={},
        strikes=(),
        clean=PairedDifference.of(before.clean, after.clean),
        worst=PairedDifference.of(before.robust, after.robust),
        checks=tuple(Check("made by hand", "ours", passed, "") for passed in checks),
        curve=(),
        notes=(),
        versions={},
        seconds=0.0,
        latency=LatencyRatio(1.2, 1.1, 1.3, 40),
        agreement=0.9,
    )


def failed(
    of: AuditResult, least: float | None = None, most: float | None = None
) -> tuple[str, ...]:
    gates = Gates(min_robust_accuracy=least, max_accuracy_drop=most)
    return failures(judge(gates, of))


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [
        (None, None, ()),
        (0.5, None, ()),
        (0.51, None, (BELOW,)),
        (0.0, 0.1, ()),
        (None, 0.06, (CLEAN, WORST)),
        (None, 0.09, (WORST.replace("6.00", "9.00"),)),
        (0.51, 0.06, (CLEAN, BELOW, WORST)),
    ],
)
def test_gates_on_a_result_that_can_be_believed(
    least: float | None, most: float | None, expected: tuple[str, ...]
) -> None:
    """At the very share a gate holds."""
    assert failed(result(), least, most) == expected


def test_clean_accuracy_alone_may_fall_too_far() -> None:
    assert failed(result(hardened=(83, 60)), None, 0.06) == (CLEAN,)


def test_accuracy_that_rose_fails_no_gate() -> None:
    assert failed(result(original=(70, 40)), 0.5, 0.0) == ()


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [
        (None, None, ()),  # nobody asked
        (0.5, None, (UNDECIDED,)),
        (None, 0.1, (UNDECIDED,)),
        (0.0, 1.0, (UNDECIDED,)),
        (0.5, 0.09, (UNDECIDED, WORST.replace("6.00", "9.00"))),
        (0.51, None, (BELOW,)),  # fails whatever the checks say
        (None, 0.09, (WORST.replace("6.00", "9.00"),)),
    ],
)
def test_gates_on_a_masked_result(
    least: float | None, most: float | None, expected: tuple[str, ...]
) -> None:
    masked = result(checks=(True, False, None))
    assert masked.verdict == "masked"
    assert failed(masked, least, most) == expected


def test_agreement_and_latency_do_not_rest_on_attacks() -> None:
    """They are decided behind a failed masking check as well."""
    masked = result(checks=(False,))
    assert judge(Gates(min_agreement=0.9, max_latency_ratio=1.2), masked) == (
        Finding(
            "--min-agreement",
            True,
            "top-1 agreement is 90.00 %, within --min-agreement 90.00 %",
        ),
        Finding(
            "--max-latency-ratio",
            True,
            "latency ratio is 1.200, within --max-latency-ratio 1.2",
        ),
    )
    assert failures(judge(Gates(min_agreement=0.91, max_latency_ratio=1.19), masked)) == (
        "top-1 agreement is 90.00 %, below --min-agreement 91.00 %",
        "latency ratio is 1.200, above --max-latency-ratio 1.19",
    )


def test_findings_are_the_verdict_the_checks_and_the_gates() -> None:
    gates = judge(Gates(max_accuracy_drop=0.06), result())
    found = replace(result(checks=(True, False)), gates=gates)
    states = [(finding.name, finding.holds) for finding in found.findings()]
    assert states == [
        ("verdict", None),
        ("clean accuracy, hardened - original", None),
        ("worst-case accuracy, hardened - original", None),
        ("latency, hardened / original", None),
        ("made by hand", True),
        ("made by hand", False),
        ("--max-accuracy-drop, clean", False),
        ("--max-accuracy-drop, worst-case", False),
    ]
    assert found.findings()[0].evidence == "masked"
    assert found.failed_gates == (CLEAN, WORST)
