"""The hardened files run with equal results in a runtime that is not ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lipcompile
from lipcompile.demo import CALIBRATION, MODEL, load_test_images
from lipcompile.forged import FORMS
from lipcompile.runtime import RuntimeOptions, open_session

openvino = pytest.importorskip("openvino")


WEIGHT: dict[str, Any] = {"variant": "weight", "compact": True, "zero_rate": 0.8}


@pytest.mark.parametrize("form", [*FORMS, "weight"])
def test_openvino_agrees_with_onnxruntime(form: str, tmp_path: Path) -> None:
    output = tmp_path / "hardened.onnx"
    scan = lipcompile.ScanOptions(samples=64)
    options = WEIGHT if form == "weight" else {"form": form}
    result = lipcompile.harden(
        MODEL, CALIBRATION, cr="2^-6", output=output, scan=scan, **options
    )
    if form == "weight":
        assert result.compaction is not None and result.compaction.dropped
    images = load_test_images()[0][:200]
    session = open_session(output, RuntimeOptions())
    expected = session.run(["logits"], {"image": images})["logits"]
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(output), "CPU", exact)
    logits = compiled(images)[0]
    assert (logits.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.995
    close = np.isclose(logits, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    # `hard` jumps: an activation within rounding of the threshold may fall on either side.
    assert close.mean() >= (0.97 if form == "hard" else 1.0)
