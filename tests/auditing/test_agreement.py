"""How many images both models give the same class, which a gate of an audit is about."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lipcompile.auditing.audit import _agreement

NAN = float("nan")


def agreement(original: list[list[float]], hardened: list[list[float]]) -> float:
    """Of models that give these scores."""
    scores = {"original": original, "hardened": hardened}
    victims = {
        role: SimpleNamespace(deployed=lambda _, rows=rows: np.array(rows))
        for role, rows in scores.items()
    }
    campaign: Any = SimpleNamespace(images=SimpleNamespace(pixels=None), victims=victims)
    return _agreement(campaign)


@pytest.mark.parametrize(
    ("hardened", "share"),
    [
        ([[0.0, 1.0], [3.0, 2.0]], 1.0),
        ([[9.0, 1.0], [3.0, 2.0]], 0.5),
        ([[9.0, 1.0], [1.0, 2.0]], 0.0),
        ([[0.0, NAN], [3.0, 2.0]], 0.5),  # arg max calls NaN the largest
    ],
)
def test_share_of_the_same_class(hardened: list[list[float]], share: float) -> None:
    assert agreement([[0.0, 5.0], [2.0, 1.0]], hardened) == share


def test_nan_in_both_is_no_agreement() -> None:
    assert agreement([[NAN, 1.0]], [[NAN, 1.0]]) == 0.0
