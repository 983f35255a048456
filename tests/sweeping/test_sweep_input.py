"""What is handed in to sweep(): models, data and options that it refuses or takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lipcompile
from lipcompile.errors import DataError, ModelError, OptionError, OutputError
from lipcompile.sweeping.opening import DataOptions
from lipcompile.sweeping.sweep import sweep
from tests.sweeping.benches import ALL, FEW, classifier, labelled, pixels


def two_outputs() -> onnx.ModelProto:
    proto = classifier(seed=2)
    extra = onnx.helper.make_tensor_value_info("s", 1, ["n", 8])
    proto.graph.output.append(extra)
    return proto


def test_a_model_with_several_outputs_needs_a_name(
    data: tuple[np.ndarray, np.ndarray],
) -> None:
    proto = two_outputs()
    with pytest.raises(ModelError, match="2 outputs that may hold class scores"):
        sweep(proto, pixels(40), data, **FEW)
    result = sweep(proto, pixels(40), data, reading=DataOptions(scores="y"), **FEW)
    assert result.to_json()["original"]["choosing"]["accuracy"] > 0.5


@pytest.mark.parametrize("variants", [["forged"], ["weight"], ["forged", "weight"]])
def test_a_hardened_model_is_one_error_and_not_many_rows(
    variants: list[str],
    proto: onnx.ModelProto,
    data: tuple[np.ndarray, np.ndarray],
) -> None:
    hardened = lipcompile.harden(proto, pixels(40), form="hard", selector=ALL).model
    with pytest.raises(ModelError, match="is hardened already"):
        sweep(hardened, pixels(40), data, **{**FEW, "variants": variants})


def test_data_that_can_be_read_once_is_refused_before_any_work(
    proto: onnx.ModelProto, data: tuple[np.ndarray, np.ndarray]
) -> None:
    with pytest.raises(DataError, match="gives each sample once"):
        sweep(proto, iter(pixels(4)), data, **FEW)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_robust_accuracy": 0.1}, "--min-robust-accuracy needs attacks: add --eps"),
        ({"eps": 0.1, "attack_samples": 0}, "attack samples = 0, attack seed = 0: give 1"),
        ({"eps": 0.1, "seed": -1}, "attack samples = 100, attack seed = -1: give 1"),
        ({"eps": 0.1, "attacks": "slow"}, "attacks 'slow' is unknown"),
        ({"eps": "much"}, "much"),
        ({"max_accuracy_drop": 7}, "--max-accuracy-drop 7 is out of range"),
        ({"cr": "2^-9:3"}, "c_r = 3 is out of range"),
        ({"forms": ["round"]}, "form 'round' is unknown"),
        ({"reading": DataOptions(labelled=False), "eps": 0.1}, "attacks labelled images"),
    ],
)
def test_wrong_options_before_any_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        sweep("no such model", "nor data", "nor that", **options)


def test_outputs_are_checked_before_any_work(tmp_path: Path) -> None:
    taken = tmp_path / "x.json"
    taken.write_text("mine")
    with pytest.raises(OutputError, match=r"x\.json' exists"):
        sweep("no such model", "nor data", "nor that", save_table=taken)
    same = {"output": tmp_path / "a", "save_table": tmp_path / "a"}
    with pytest.raises(OutputError, match="two results would be written to"):
        sweep("no such model", "nor data", "nor that", **same)  # type: ignore[arg-type]
    with pytest.raises(ModelError):
        sweep("no such model", "nor data", "nor that", save_table=taken, force=True)
    assert taken.read_text() == "mine"


def test_one_image_is_too_few(
    proto: onnx.ModelProto, data: tuple[np.ndarray, np.ndarray]
) -> None:
    with pytest.raises(DataError, match="the data has 1 usable sample"):
        sweep(proto, pixels(40), (data[0][:1], data[1][:1]), **FEW)


def test_two_images_show_how_little_they_say(
    proto: onnx.ModelProto, data: tuple[np.ndarray, np.ndarray]
) -> None:
    result = sweep(proto, pixels(40), (data[0][:2], data[1][:2]), **FEW)
    if result.confirmed is not None:
        agreement = result.confirmed.answers.agreement
        assert (agreement.n, agreement.high - agreement.low > 0.9) == (1, True)


def test_labels_that_make_no_sense_are_told(proto: onnx.ModelProto) -> None:
    images = pixels(60)
    labels = np.random.default_rng(0).integers(0, 4, 60)
    result = sweep(proto, pixels(40), (images, labels), max_accuracy_drop=1.0, **FEW)
    assert len(result.notes) == 1 and "check labels and preprocessing" in result.notes[0]
    assert f"note: {result.notes[0]}" in str(result)


def test_external_weights_are_no_output(tmp_path: Path) -> None:
    model = classifier(seed=2)
    data, path = labelled(model, 20), tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    before = (tmp_path / "m.data").read_bytes()
    with pytest.raises(OutputError, match=r"m\.data"):
        sweep(path, pixels(20), data, save_table=tmp_path / "m.data", force=True, cr="2^-6")
    assert (tmp_path / "m.data").read_bytes() == before
