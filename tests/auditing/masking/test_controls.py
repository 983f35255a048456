"""Controls: the original hardened with other thresholds, where the outcome is known."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

import lipcompile
from lipcompile import Selector, model_io
from lipcompile.auditing.attacks import FGSM
from lipcompile.auditing.audit import audit
from lipcompile.auditing.budget import Budget
from lipcompile.auditing.campaign import Campaign
from lipcompile.auditing.journal import Journal
from lipcompile.auditing.masking.check import Check
from lipcompile.auditing.masking.controls import control_checks
from lipcompile.auditing.results import AuditResult
from lipcompile.auditing.victim import Settings, open_victim
from lipcompile.demo import CALIBRATION, MODEL, load_test_images
from lipcompile.forged import FORMS, TARGETS, Target
from lipcompile.labelled import LabelledImages
from lipcompile.labelled.normalisation import Normalisation
from tests.auditing import planted
from tests.auditing.quick import QUICK
from tests.auditing.synthetic import rows, strike

PROVENANCE = "the file is what its provenance says"
LIMIT = "thresholds near zero reproduce the original"
PLACEBO = "a placebo with random thresholds is no better"
COUNT = 16
ONE_STEP = FGSM()


@cache
def original() -> onnx.ModelProto:
    model: onnx.ModelProto = onnx.load(MODEL)
    return model


@cache
def hardened(form: str = "hard", target: Target = "portable") -> onnx.ModelProto:
    done = lipcompile.harden(original(), CALIBRATION, form=form, cr="2^-6", target=target)
    assert isinstance(done.model, onnx.ModelProto)
    return done.model


def pixels() -> np.ndarray:
    return load_test_images()[0][:COUNT]


def campaign_of(
    model: onnx.ModelProto, before: object = MODEL, dtype: str = "float32", eps: float = 0.1
) -> Campaign:
    """Both models, opened as an audit opens them, and nothing attacked yet."""
    images, labels = (part[:COUNT] for part in load_test_images())
    normalisation = Normalisation(dtype=dtype)
    data = LabelledImages(
        images, labels, tuple(map(str, range(COUNT))), normalisation, "test", COUNT
    )
    cpu, settings = torch.device("cpu"), Settings(batch=COUNT, threads=1)
    victims = {
        role: open_victim(role, model_io.load(source), normalisation, images, cpu, settings)
        for role, source in (("original", before), ("hardened", model))
    }
    done = Campaign(data, Budget(eps), victims, Journal(None), 0, COUNT, lambda _: None)
    done.measure_clean()
    return done


def control(name: str, of: Campaign) -> Check:
    (found,) = [c for c in control_checks(of, ONE_STEP) if c.name == name]
    return found


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def with_records(
    model: onnx.ModelProto, change: Callable[[list[dict[str, Any]]], object]
) -> onnx.ModelProto:
    """The model with `change` applied to what it says of its sites."""
    changed = copy.deepcopy(model)
    (entry,) = [e for e in changed.metadata_props if e.key == "lipcompile.sites"]
    records = json.loads(entry.value)
    change(records)
    entry.value = json.dumps(records)
    return changed


# The provenance


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", list(FORMS))
def test_honest_file_is_what_it_says(form: str, target: Target) -> None:
    found = control(PROVENANCE, campaign_of(hardened(form, target)))
    assert found.passed
    assert f"{2 * COUNT} of {2 * COUNT} predictions the same" in found.evidence


def test_file_that_was_hardened_twice_is_what_it_says() -> None:
    first = Selector(include=("stages.0", "fc1"))
    once = lipcompile.harden(original(), CALIBRATION, form="hard", selector=first).model
    twice = lipcompile.harden(once, CALIBRATION, form="smooth", cr="2^-5", force=True).model
    assert {r["form"] for r in json.loads(metadata(twice)["lipcompile.sites"])} == {
        "smooth",
        "hard",
    }
    assert control(PROVENANCE, campaign_of(twice)).passed


def edited_threshold(form: str) -> onnx.ModelProto:
    """One threshold of the graph times 32; the provenance says what it said."""
    model = copy.deepcopy(hardened(form))
    if form == "hard":
        node = next(n for n in model.graph.node if n.op_type == "ThresholdedRelu")
        node.attribute[0].f *= 32
        return model
    gate = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
    (scale,) = [n for n in model.graph.node if n.output[0] == gate.input[1]]
    values = numpy_helper.to_array(scale.attribute[0].t) / np.float32(32)
    scale.attribute[0].t.CopyFrom(numpy_helper.from_array(values))
    return model


@pytest.mark.parametrize("form", ["smooth", "hard"])
def test_edited_threshold_is_noticed(form: str) -> None:
    assert control(PROVENANCE, campaign_of(edited_threshold(form))).failed


def test_bias_that_was_not_shifted_is_noticed() -> None:
    """`soft` without its threshold, at the sites where that is no operator but a number."""
    model = copy.deepcopy(hardened("soft"))
    records = json.loads(metadata(model)["lipcompile.sites"])
    changes = [change for record in records for change in record.get("changes", ())]
    assert changes
    before = {tensor.name: tensor for tensor in original().graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.name in {change["was"] for change in changes if "stored" in change}:
            tensor.CopyFrom(before[tensor.name])
    assert control(PROVENANCE, campaign_of(model)).failed


def test_edited_provenance_is_noticed() -> None:
    def raise_thresholds(records: list[dict[str, Any]]) -> None:
        for record in records:
            record["c"] *= 8

    assert control(PROVENANCE, campaign_of(with_records(hardened(), raise_thresholds))).failed


def pasted(sham: onnx.ModelProto) -> onnx.ModelProto:
    """The sham with the provenance of an honest file."""
    model = copy.deepcopy(sham)
    helper.set_model_props(model, metadata(hardened()))
    return model


@pytest.mark.parametrize(
    "plant",
    [planted.shattered_gradients, planted.cut_gradients, planted.scaled_logits],
    ids=lambda plant: plant.__name__,
)
@pytest.mark.parametrize("source", [original, hardened], ids=lambda source: source.__name__)
def test_sham_with_pasted_provenance_is_noticed(
    plant: planted.Planted, source: Callable[[], onnx.ModelProto]
) -> None:
    """In place of hardening, and on top of it."""
    assert control(PROVENANCE, campaign_of(pasted(plant(source())))).failed


def eight_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Pixels are rounded to 256 levels: nothing changes on images of 8 bits, and elsewhere no
    gradient passes.
    """
    changed = planted.shattered_gradients(model)
    (levels,) = [t for t in changed.graph.initializer if t.name == "levels"]
    levels.CopyFrom(numpy_helper.from_array(np.array(255, np.float32), "levels"))
    return changed


def test_sham_that_shows_only_away_from_clean_images_is_noticed() -> None:
    assert control(PROVENANCE, campaign_of(pasted(eight_bits(hardened())))).failed


def test_file_without_provenance_cannot_be_rebuilt() -> None:
    for found in control_checks(campaign_of(copy.deepcopy(original())), ONE_STEP):
        assert found.passed is None
        assert found.evidence == "the file has no LipCompile provenance to build it from"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda records: records[0].update(tensor="gone"), "gone"),
        (lambda records: records[0].pop("c"), "'c'"),
        (lambda records: records[0].update(form="odd"), "form 'odd' is unknown"),
        (lambda records: records[0].update(c=0.0), r"threshold 0 is too small"),
    ],
    ids=["tensor", "no c", "form", "c"],
)
def test_provenance_that_cannot_be_followed_is_no_pass(
    change: Callable[[list[dict[str, Any]]], object], match: str
) -> None:
    found = control(PROVENANCE, campaign_of(with_records(hardened(), change)))
    assert found.passed is None
    assert re.search(f"it cannot be built: .*{match}", found.evidence)


def test_zeroed_columns_are_what_they_say_and_have_no_thresholds_to_change() -> None:
    options: dict[str, Any] = {"variant": "weight", "cr": "2^-4", "zero_rate": 0.95}
    model = lipcompile.harden(original(), CALIBRATION, **options).model
    checks = {check.name: check for check in control_checks(campaign_of(model), ONE_STEP)}
    assert checks[PROVENANCE].passed
    for name in (LIMIT, PLACEBO):
        assert checks[name].evidence == "variant weight has no thresholds to change"
    changed = copy.deepcopy(model)
    tensor = max(changed.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    array = numpy_helper.to_array(tensor) * np.float32(3)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    assert control(PROVENANCE, campaign_of(changed)).failed


# Thresholds near zero


@pytest.mark.parametrize("form", list(FORMS))
def test_near_zero_thresholds_give_the_original(form: str) -> None:
    found = control(LIMIT, campaign_of(hardened(form)))
    assert found.passed
    assert found.evidence.startswith("rebuilt from the original: largest difference ")


def test_threshold_that_is_not_near_zero_is_noticed() -> None:
    huge = with_records(hardened(), lambda records: records[0].update(c=2.0**30))
    assert control(LIMIT, campaign_of(huge)).failed


@pytest.mark.parametrize("form", list(FORMS))
def test_float16(form: str) -> None:
    """2^-30 times a threshold is 0 in float16, and two forms compute in it: 2^-12 is taken."""
    half = convert_float_to_float16(original())
    calibration = pixels().astype(np.float16)
    model = lipcompile.harden(half, calibration, form=form, cr="2^-6").model
    of = campaign_of(model, half, "float16")
    for name in (PROVENANCE, LIMIT):
        found = control(name, of)
        assert found.passed, found.evidence


# The placebo


def struck(of: Campaign, broken: np.ndarray) -> Campaign:
    """The campaign in which the attack of the placebo broke these images of the hardened."""
    of.strikes.append(strike("hardened", "bpda-identity", ONE_STEP.name, broken))
    return of


def test_placebo_is_shown_with_its_numbers() -> None:
    of = campaign_of(hardened())
    of.attack("hardened", "bpda-identity", ONE_STEP, of.clean["hardened"], gradient="identity")
    found = control(PLACEBO, of)
    assert found.passed
    assert re.fullmatch(
        r"under bpda-identity fgsm: hardened \d+\.\d\d%, placebo \d+\.\d\d% "
        r"\(p = [\d.e-]+ that the placebo is better\)",
        found.evidence,
    )
    assert len(of.strikes) == 1  # the placebo's do not count


def test_placebo_that_is_better_is_noticed() -> None:
    """Everything broke the hardened model, and at a tiny radius nothing breaks the placebo."""
    everything, nothing = rows(COUNT, (0, COUNT)), rows(COUNT)
    found = control(PLACEBO, struck(campaign_of(hardened(), eps=1e-6), everything))
    assert found.failed
    assert "hardened 0.00%, placebo " in found.evidence
    assert control(PLACEBO, struck(campaign_of(hardened(), eps=1e-6), nothing)).passed


def test_placebo_that_is_worse_is_no_failure() -> None:
    found = control(PLACEBO, struck(campaign_of(hardened(), eps=0.99), rows(COUNT)))
    assert found.passed
    assert "(p = 1 that" in found.evidence


def test_placebo_without_anything_to_compare() -> None:
    found = control(PLACEBO, campaign_of(hardened()))
    assert (found.passed, found.evidence) == (None, "not run")


# Weights outside of the file


def of_result(result: AuditResult, name: str) -> Check:
    (found,) = [c for c in result.checks if c.name == name]
    return found


def images_for(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Random images with the class that the original gives them."""
    images = np.random.default_rng(0).random((COUNT, 3, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(path)
    return images, session.run(["y"], {"x": images})[0].argmax(axis=1)


@pytest.mark.parametrize("kind", ["path", "ir"])
def test_controls_find_external_weights(
    tmp_path: Path, external_cnn: Callable[..., Path], kind: str
) -> None:
    before = external_cnn(tmp_path)
    data = images_for(before)
    lipcompile.harden(
        before,
        data[0],
        form="hard",
        cr="2^-6",
        selector=Selector("all"),
        output=tmp_path / "hard.onnx",
    )
    given = before if kind == "path" else ir.load(before)
    result = audit(tmp_path / "hard.onnx", given, data, eps=0.05, attacks=QUICK, threads=1)
    for name in (PROVENANCE, LIMIT, PLACEBO):
        assert of_result(result, name).passed, of_result(result, name).evidence


def test_external_weights_of_the_hardened_file_are_looked_at(
    tmp_path: Path, external_cnn: Callable[..., Path]
) -> None:
    """With other weights than the original's it is not what it says: only the data differ."""
    before = external_cnn(tmp_path / "before")
    data = images_for(before)
    after = tmp_path / "after" / "hard.onnx"
    after.parent.mkdir()
    options: dict[str, Any] = {"form": "hard", "cr": "2^-6", "selector": Selector("all")}
    lipcompile.harden(before, data[0], output=after, **options)
    (weights,) = after.parent.glob("*.data")
    changed = np.fromfile(weights, np.float32)
    (changed * np.float32(1.5)).tofile(weights)
    result = audit(after, before, data, eps=0.05, attacks=QUICK, threads=1)
    assert of_result(result, PROVENANCE).failed
    assert of_result(result, LIMIT).passed
