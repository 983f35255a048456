"""Conversion to float16, by onnxconverter-common and by ONNX Runtime's own converter.

Distances are relative root mean squares of the outputs, from the float32 hardened model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.transformers.float16 import (
    convert_float_to_float16 as convert_with_onnxruntime,
)

import lipcompile
from lipcompile.forged import Smooth
from tests.exactness import fetch
from tests.neighbours.cases import (
    Case,
    computed_tensors,
    distance,
    forged_tensors,
    inserted_nodes,
    provenance,
)

common = pytest.importorskip("onnxconverter_common.float16")
CONVERTERS: dict[str, Callable[..., onnx.ModelProto]] = {
    "onnxconverter-common": common.convert_float_to_float16,
    "onnxruntime": convert_with_onnxruntime,
}
pytestmark = [
    # onnxconverter-common tells of every weight below 1e-7 that it rounds up to it.
    pytest.mark.filterwarnings("ignore:the float32 number .* will be truncated"),
]


def tolerance(form: str) -> float:
    """2^-9, four steps of float16, where f_c is continuous: at most 0.0013 was measured.

    `hard` jumps by c when an activation next to the threshold is rounded across it: 0.0055 was
    measured, and 2^-7 is allowed. Hardening itself moves the outputs by 0.0127 or more.
    """
    return 2**-7 if form == "hard" else 2**-9


def convert(converter: str, path: Path, **options: Any) -> onnx.ModelProto:
    model = onnx.load(path)
    if converter == "onnxconverter-common" and common.check_if_fp16_ready(model.graph):
        pytest.skip("onnxconverter-common refuses models that hold float16 weights")
    return CONVERTERS[converter](model, **options)


@pytest.mark.parametrize("keep_io_types", [True, False])
@pytest.mark.parametrize("converter", list(CONVERTERS))
def test_hardened_model_converts(
    case: Case, form: str, harden: Callable[..., Path], converter: str, keep_io_types: bool
) -> None:
    hardened = harden(case)
    converted = convert(converter, hardened, keep_io_types=keep_io_types)
    expected = case.outputs(hardened)
    assert distance(case.outputs(converted), expected) <= tolerance(form)
    assert distance(case.outputs(case.path), expected) > tolerance(form), "cannot fail"
    before = onnx.load(hardened)
    assert inserted_nodes(before) <= inserted_nodes(converted)
    assert forged_tensors(before) <= computed_tensors(converted)
    assert provenance(converted) == provenance(before)


@pytest.mark.parametrize("converter", list(CONVERTERS))
def test_converted_model_hardens(
    case: Case, form: str, harden: Callable[..., Path], converter: str, tmp_path: Path
) -> None:
    half = tmp_path / "half.onnx"
    onnx.save(convert(converter, case.path, keep_io_types=True), half)
    got, expected = case.outputs(harden(case, half)), case.outputs(harden(case))
    assert distance(got, expected) <= tolerance(form)


def test_onnxconverter_common_raises_tiny_thresholds(
    small_cnn: Callable[[], onnx.ModelProto],
) -> None:
    """It cuts constants at 1e4, so that `smooth`, which holds a / c, gets c = a / 1e4 = 0.001
    where c was smaller, and warns. `max_finite_val=65504` leaves c down to a / 65504.
    """
    model = small_cnn()
    for tensor, scale in zip(model.graph.initializer, (0.03, 0.0), strict=False):
        small = np.float32(scale) * numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(small, tensor.name))
    rng = np.random.default_rng(0)
    images = rng.standard_normal((64, 3, 8, 8)).astype(np.float32)
    near_c = images * np.linspace(0, 0.05, 64, dtype=np.float32)[:, None, None, None]
    hardened = lipcompile.harden(model, [{"x": images}], form="smooth", cr="2^-8").model
    records = json.loads(provenance(hardened)["lipcompile.sites"])
    (record,) = records
    raised, limit = 10 / 1e4, 10 / 65504
    assert limit < record["c"] < raised

    def error(c: float, **options: float) -> float:
        """How far the converted model's forged tensor is from f_c; in units of c."""
        converted = common.convert_float_to_float16(_copy(hardened), **options)
        tensors = fetch(converted, records, {"x": near_c.astype(np.float16)})
        x = tensors[record["at"]].astype(np.float32)
        return float(np.abs(tensors[record["forged"]] - Smooth()(x, c)).max() / c)

    with pytest.warns(UserWarning, match="will be truncated to 10000"):
        assert error(raised) <= 0.02
    with pytest.warns(UserWarning, match="will be truncated to 10000"):
        assert error(record["c"]) > 0.2
    assert error(record["c"], max_finite_val=65504) <= 0.02


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(model.SerializeToString())
