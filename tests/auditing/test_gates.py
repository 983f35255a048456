"""Gates hold or fail on results made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lipcompile.auditing.budget import Budget
from lipcompile.auditing.gates import Gates
from lipcompile.auditing.masking import Check
from lipcompile.auditing.results import AuditResult, ModelOutcome
from lipcompile.errors import OptionError
from lipcompile.statistics import PairedDifference

COUNT = 100
BELOW = "worst-case accuracy 50.00 % is below --min-robust-accuracy 51.00 %"
CLEAN = "clean accuracy fell by 7.00 %, more than --max-drop 6.00 %"
WORST = "worst-case accuracy fell by 10.00 %, more than --max-drop 6.00 %"
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
    )


@pytest.mark.parametrize(
    ("least", "most", "failures"),
    [
        (None, None, ()),
        (0.5, None, ()),
        (0.51, None, (BELOW,)),
        (0.0, 0.1, ()),
        (None, 0.06, (CLEAN, WORST)),
        (None, 0.09, (WORST.replace("6.00", "9.00"),)),
        (0.51, 0.06, (BELOW, CLEAN, WORST)),
    ],
)
def test_gates_on_a_result_that_can_be_believed(
    least: float | None, most: float | None, failures: tuple[str, ...]
) -> None:
    """At the very share a gate holds."""
    assert Gates(least, most).failures(result()) == failures


def test_clean_accuracy_alone_may_fall_too_far() -> None:
    found = Gates(None, 0.06).failures(result(hardened=(83, 60)))
    assert found == (CLEAN,)


def test_accuracy_that_rose_fails_no_gate() -> None:
    assert Gates(0.5, 0.0).failures(result(original=(70, 40))) == ()


@pytest.mark.parametrize(
    ("least", "most", "failures"),
    [
        (None, None, ()),  # nobody asked
        (0.5, None, (UNDECIDED,)),
        (None, 0.1, (UNDECIDED,)),
        (0.0, 1.0, (UNDECIDED,)),
        (0.51, None, (BELOW,)),  # fails whatever the checks say
        (None, 0.09, (WORST.replace("6.00", "9.00"),)),
    ],
)
def test_gates_on_a_masked_result(
    least: float | None, most: float | None, failures: tuple[str, ...]
) -> None:
    masked = result(checks=(True, False, None))
    assert masked.verdict == "masked"
    assert Gates(least, most).failures(masked) == failures


@pytest.mark.parametrize("value", [-0.01, 1.01, 30, float("nan"), float("inf")])
def test_shares_out_of_range(value: float) -> None:
    match = r"out of range: give a share from 0 to 1, for example 0\.3 for 30 %"
    with pytest.raises(OptionError, match=f"--min-robust-accuracy .*{match}"):
        Gates(value, None)
    with pytest.raises(OptionError, match=f"--max-drop .*{match}"):
        Gates(None, value)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_shares_at_the_ends_of_the_range(value: float) -> None:
    Gates(value, value)
