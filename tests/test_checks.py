"""Comparing outputs: which rows are samples', and what counts as broken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lipcompile.calibration.scan import Probe
from lipcompile.checks import measure_agreement


class Fixed:
    """A session that gives what it was made with."""

    def __init__(self, output: np.ndarray) -> None:
        self._output = output

    def run(self, outputs: list[str], feeds: Any) -> dict[str, np.ndarray]:
        return {"y": self._output}


SCORES = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], np.float32)


def agreement(before: np.ndarray, after: np.ndarray, count: int, padding: int) -> Any:
    return measure_agreement(Fixed(after), [Probe({}, {"y": before}, count, padding)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("count", "padding", "same"),
    [
        (2, 0, 0.5),
        (1, 1, 1.0),  # the second row only fills up a fixed batch
        (1, 5, 0.5),  # axis 0 of this output does not count samples
    ],
)
def test_rows_that_fill_up_a_batch_are_left_out(count: int, padding: int, same: float) -> None:
    after = SCORES.copy()
    after[1] = SCORES[0]
    found, broken = agreement(SCORES, after, count, padding)
    assert (found.top1, broken) == (same, ())


def test_an_output_without_rows_has_no_class_scores() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert agreement(empty, empty, 1, 0)[0].top1 is None


def test_an_output_that_became_nan_is_named_and_one_that_was_is_not() -> None:
    broken = SCORES.copy()
    broken[0, 0] = np.nan
    found, names = agreement(SCORES, broken, 2, 0)
    assert names == ("y",)
    assert found.max_difference == 0.0
    found, names = agreement(broken, broken, 2, 0)
    assert names == ()
    assert found.original_has_nan
