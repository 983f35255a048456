"""A setting that does well where it is chosen, and badly where it is reported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from lipcompile.statistics import PairedDifference
from lipcompile.sweeping import comparing
from lipcompile.sweeping.sweep import sweep
from tests.sweeping.benches import pixels


@dataclass(frozen=True)
class Planted:
    """An audit that found this many more, or fewer, robust images."""

    gain: int
    verdict: str
    n: int

    @property
    def original(self) -> Any:
        return SimpleNamespace(robust=np.arange(self.n) < self.n // 2)

    @property
    def hardened(self) -> Any:
        return SimpleNamespace(robust=np.arange(self.n) < self.n // 2 + self.gain)

    @property
    def worst(self) -> PairedDifference:
        return PairedDifference.of(self.original.robust, self.hardened.robust)

    def to_json(self) -> dict[str, Any]:
        return {"verdict": self.verdict}


@pytest.mark.parametrize("verdict", ["worse", "masked", "no measurable change", "improved"])
def test_what_the_reporting_part_refutes_is_not_saved(
    verdict: str,
    proto: onnx.ModelProto,
    data: tuple[np.ndarray, np.ndarray],
    attacked: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    calls: list[int] = []

    def attack(self: comparing.Comparison, candidate: Any, rows: np.ndarray) -> Planted:
        calls.append(len(rows))
        if len(rows) == 12:
            return Planted(1, "no measurable change", 12)
        return Planted(-9 if verdict == "worse" else 1, verdict, len(rows))

    monkeypatch.setattr(comparing.Comparison, "_attack", attack)
    target = tmp_path / "m.onnx"
    result = sweep(proto, pixels(40), data, output=target, **attacked)
    assert result.chosen is not None and calls[-1] == 30
    assert result.verdict == verdict
    refuted = verdict in ("worse", "masked")
    assert target.exists() != refuted
    assert (
        f"keep the original: on the reporting part the verdict is {verdict}" in str(result)
    ) == (refuted)
