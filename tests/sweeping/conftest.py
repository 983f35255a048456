"""A model, labelled images, and quick attacks, for whole sweeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from lipcompile.auditing import presets
from tests.auditing.quick import QUICK
from tests.sweeping.benches import FEW, classifier, labelled


@pytest.fixture(scope="module")
def proto() -> onnx.ModelProto:
    return classifier(seed=2)


@pytest.fixture(scope="module")
def data(proto: onnx.ModelProto) -> tuple[np.ndarray, np.ndarray]:
    return labelled(proto, 60)


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setitem(presets.PRESETS, "fast", QUICK)
    return {**FEW, "eps": 0.2, "attack_samples": 12, "variants": ["forged"]}
