"""Hardened models of the pack give equal results in ONNX Runtime and OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lipcompile
from lipcompile.runtime import RuntimeOptions, open_session

openvino = pytest.importorskip("openvino")
MODELS = [  # one of each kind
    "cifar_resnet4b",
    "cifar_wrn10_2_adv",
    "cifar_vit_pgd",
    "mnist_lenet5_advtrained",
    "opennsfw",
    "kws_mlperf",
    "acasxu_1_1",
]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", ["smooth", "hard"])
def test_openvino_agrees(pack: dict[str, Any], name: str, form: str, tmp_path: Path) -> None:
    """As closely as the original does: the reference is its own difference."""
    pack_model = pack[name]
    output = tmp_path / "hardened.onnx"
    samples = pack_model.samples(8)
    lipcompile.harden(pack_model.path, samples, form=form, output=output)
    before = difference(pack_model.path, samples)
    after = difference(output, samples)
    # A jump of `hard` may turn rounding of an activation into c; 2^-7 of the scale covers it.
    assert after <= max(10 * before, 2**-7 if form == "hard" else 1e-4)


def difference(path: Path, samples: list[dict[str, np.ndarray]]) -> float:
    """Largest difference of the first output, over its largest value."""
    session = open_session(path, RuntimeOptions())
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    worst = scale = 0.0
    for sample in samples:
        feeds = {name: array[None] for name, array in sample.items()}
        expected = session.run([session.outputs[0]], feeds)[session.outputs[0]]
        got = compiled(feeds)[0]
        worst = max(worst, float(np.abs(got - expected).max()))
        scale = max(scale, float(np.abs(expected).max()))
    return worst / scale
