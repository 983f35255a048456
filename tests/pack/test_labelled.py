"""Labelled images of real data give real models the accuracy that the manifest records."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lipcompile import model_io
from lipcompile.labelled import LabelledImages, open_labelled
from lipcompile.runtime import RuntimeOptions, open_session
from tests.pack.conftest import ENTRIES, ROOT, PackModel

# Steps and values that LipCompile's flags cannot say.
_UNSAID = {"bgr", "transpose_hw", "pad_right_to", "offset", "take_first", "reshape"}
_GEOMETRY = {
    "efficientnet_lite0_w16": {"crop_pct": 0.875, "interpolation": "bicubic"},
    "mobilenetv2_qdq": {"crop_pct": 0.8745},  # floor(244 / 0.8745) = 279
}


def is_said(entry: dict[str, Any]) -> bool:
    how = entry["preprocessing"]
    labelled = how.get("labels") in ("folder_order", "json")
    plain = all(step["op"] == "color" for step in how.get("image_ops", []))
    known = plain or entry["id"] in _GEOMETRY
    return labelled and known and not _UNSAID & how["array"].keys()


def flags_of(entry: dict[str, Any]) -> dict[str, Any]:
    how = entry["preprocessing"]["array"]
    flags: dict[str, Any] = {"rescale": 1 / how.get("scale", 1)}
    flags |= {key: how[key] for key in ("mean", "std") if key in how}
    return flags | _GEOMETRY.get(entry["id"], {})


def load(entry: dict[str, Any], model: model_io.LoadedModel) -> LabelledImages:
    how = entry["preprocessing"]
    classes = model.outputs[0].shape[-1] if model.outputs[0].shape else None
    assert isinstance(classes, int)
    return open_labelled(
        ROOT / how["data"],
        model.inputs,
        num_classes=classes,
        model=model.name,
        image_flags=flags_of(entry),
        labels=ROOT / how["labels_file"] if how["labels"] == "json" else None,
    )


CASES = [pytest.param(PackModel(e), id=e["id"]) for e in ENTRIES if is_said(e)]


@pytest.mark.parametrize("classifier", CASES)
def test_accuracy_is_the_manifests(classifier: PackModel) -> None:
    model = model_io.load(classifier.path)
    images = load(classifier.entry, model)
    session = open_session(classifier.path, RuntimeOptions(threads=1))
    size = model.inputs[0].fixed_batch or 50
    right = 0
    for start in range(0, len(images.pixels), size):
        feed = images.normalisation(images.pixels[start : start + size])
        scores = session.run(session.outputs, {model.inputs[0].name: feed})
        found = scores[session.outputs[0]].reshape(len(feed), -1).argmax(axis=1)
        right += int((found == images.labels[start : start + size]).sum())
    result = classifier.entry["result"]
    assert len(images.pixels) == images.available == result["n"]
    # The pack rounds the resized long side, we cut it, as torchvision does: a pixel's shift in
    # a quarter of the photographs, which changes the class of at most one of the 200.
    away = abs(right - round(result["accuracy"] * len(images.pixels)))
    assert away <= (classifier.entry["id"] in _GEOMETRY)


def test_the_pack_has_such_classifiers() -> None:
    if not ENTRIES:
        pytest.skip("no pack here")
    kinds = {case.values[0].entry["preprocessing"]["data"] for case in CASES}  # type: ignore[union-attr]
    assert len(CASES) >= 18
    assert len(kinds) == 4
    assert np.unique([case.id for case in CASES]).size == len(CASES)
