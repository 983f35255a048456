"""audit(): what it says, what it refuses, and how it goes on after an interruption."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

import lipcompile
from lipcompile import atomic
from lipcompile.auditing.attacks import APGDT, Attack
from lipcompile.auditing.audit import audit
from lipcompile.auditing.budget import Budget
from lipcompile.auditing.results import AuditResult
from lipcompile.demo import CALIBRATION, MODEL, TEST, load_test_images
from lipcompile.errors import (
    CheckFailed,
    DataError,
    Interrupted,
    ModelError,
    NonFiniteError,
    OptionError,
    ProviderError,
    RunFailure,
    SaveError,
)
from tests.auditing import planted
from tests.auditing.quick import QUICK


@cache
def original() -> onnx.ModelProto:
    return onnx.load(MODEL)


@cache
def hardened() -> onnx.ModelProto:
    return lipcompile.harden(original(), CALIBRATION, form="hard", cr="2^-6").model


def quick(model: object = None, before: object = MODEL, **options: Any) -> AuditResult:
    options = {"eps": 0.1, "samples": 24, "attacks": QUICK} | options
    data = options.pop("data", TEST)
    return audit(hardened() if model is None else model, before, data, **options)


def without_times(result: AuditResult) -> dict[str, Any]:
    found = result.to_json()
    del found["seconds"], found["notes"], found["latency"]
    for path in found["paths"]:
        del path["seconds"]
    return found


# What it says


def test_same_seed_same_result_and_json_is_complete() -> None:
    first, again = quick(), quick()
    assert without_times(first) == without_times(again)
    found = json.loads(json.dumps(first.to_json()))
    assert found["verdict"] in ("improved", "no measurable change", "worse", "masked")
    assert found["budget"] == {"norm": "linf", "eps": 0.1, "unit": "pixels"}
    assert found["data"]["images"] == 24
    assert found["versions"]["torch"] == torch.__version__
    assert found["original"]["digest"] != found["hardened"]["digest"]
    robust = sum(found["hardened"]["robust_images"]) / 24
    assert found["hardened"]["worst_case_accuracy"] == robust
    paths = {(p["model"], p["path"]) for p in found["paths"]}
    everywhere = {"white-box", "bpda-identity", "bpda-smooth", "transfer", "transfer-start"}
    assert paths == {
        (m, p) for m in ("original", "hardened") for p in (*everywhere, "black-box")
    }
    for path in found["paths"]:
        assert path["largest_distance"] <= 0.1
        assert path["settings"]["seed"] == 0
    assert found["run"] == {
        "seed": 0,
        "data_seed": 0,
        "device": "cpu",
        "threads": 0,
        "batch_size": 64,
    }
    assert len(found["labels"]) == len(found["names"]) == 24


def test_model_against_itself_shows_no_change() -> None:
    result = quick(copy.deepcopy(original()), original())
    assert result.worst.gained == result.worst.lost == 0
    assert result.verdict == "no measurable change"
    assert np.array_equal(result.original.robust, result.hardened.robust)


def test_both_models_get_as_many_attempts() -> None:
    result = quick()
    strikes = result.strikes
    for path in ("white-box", "bpda-identity", "bpda-smooth", "transfer", "transfer-start"):
        counts = [
            sorted(s.attack for s in strikes if (s.role, s.path) == (role, path))
            for role in ("original", "hardened")
        ]
        assert counts[0] == counts[1] != []
    both = result.original.clean & result.hardened.clean
    everywhere = ("fgsm", "pgd", "margin-pgd", "apgd-ce")
    tries = [
        sum(
            s.attacked[both].astype(int)
            for s in strikes
            if s.role == role and s.attack in everywhere and s.path != "transfer-start"
        )
        for role in ("original", "hardened")
    ]
    assert np.array_equal(*tries)
    assert tries[0].min() == 12  # six runs on the model itself, and six replays


def test_worst_case_is_pointwise() -> None:
    result = quick()
    for outcome, role in ((result.original, "original"), (result.hardened, "hardened")):
        broken = np.zeros(24, bool)
        for strike in result.strikes:
            if strike.role == role:
                broken |= strike.broken
        assert np.array_equal(outcome.robust, outcome.clean & ~broken)


def test_l2_and_arrays_and_l2_distances() -> None:
    images, labels = load_test_images()
    result = quick(data=(images[:24], labels[:24]), eps=1.0, norm="l2", samples=None)
    assert str(result.budget) == "l2 eps = 1"
    assert 0 < max(strike.largest for strike in result.strikes) <= 1.0


def test_epsilon_is_in_pixels_wherever_the_normalisation_is() -> None:
    """One model normalises in the graph, the other is fed normalised images."""
    inner = copy.deepcopy(original())
    mean = next(n for n in inner.graph.node if n.op_type in ("Sub", "Div", "Mul"))
    assert mean.input[0] == "image"  # the bundled model normalises in its graph
    outer = copy.deepcopy(original())
    graph = outer.graph
    # x = (p - 0.5) / 0.25 is fed; the graph undoes that before its own normalisation.
    for name, value in (("undo_scale", 0.25), ("undo_mean", 0.5)):
        graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    for node in graph.node:
        node.input[:] = ["undone" if name == "image" else name for name in node.input]
    graph.node.insert(0, helper.make_node("Add", ["scaled", "undo_mean"], ["undone"]))
    graph.node.insert(0, helper.make_node("Mul", ["image", "undo_scale"], ["scaled"]))
    one = quick(copy.deepcopy(original()), original())
    two = quick(copy.deepcopy(outer), outer, image_flags={"mean": (0.5,), "std": (0.25,)})
    assert two.original.robust.mean() == pytest.approx(one.original.robust.mean(), abs=0.05)
    strikes = [s for s in two.strikes if s.broken.any()]
    assert max(s.largest for s in strikes) == pytest.approx(0.1, abs=1e-6)


def test_softmax_output_is_attacked_behind_it() -> None:
    soft = copy.deepcopy(original())
    output = soft.graph.output[0].name
    for node in soft.graph.node:
        node.output[:] = ["raw" if name == output else name for name in node.output]
    soft.graph.node.append(helper.make_node("Softmax", ["raw"], [output], axis=1))
    plain, result = quick(original(), original()), quick(soft, original())
    assert np.array_equal(result.hardened.robust, plain.hardened.robust)
    (check,) = [c for c in result.checks if c.name.startswith("attacks see logits")]
    assert check.passed and "ends in Softmax" in check.evidence


def test_two_classes_leave_out_what_needs_four() -> None:
    images, labels = load_test_images()
    two = copy.deepcopy(original())
    output = two.graph.output[0]
    for node in two.graph.node:
        node.output[:] = ["ten" if name == output.name else name for name in node.output]
    for name, value in (("from", [0]), ("to", [2]), ("axis", [1])):
        two.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    two.graph.node.append(helper.make_node("Slice", ["ten", "from", "to", "axis"], ["logits"]))
    output.name = "logits"
    output.type.tensor_type.shape.dim[1].dim_value = 2
    chosen = np.flatnonzero(labels < 2)[:16]
    preset = replace(QUICK, survivors=(APGDT(steps=3),))
    data = (images[chosen], labels[chosen])
    result = quick(copy.deepcopy(two), two, data=data, attacks=preset)
    assert "apgd-t was left out: its loss needs 4 classes, there are 2" in result.notes


def test_saved_examples_can_be_replayed_by_others(tmp_path: Path) -> None:
    """With nothing but the two files, the examples and ONNX Runtime."""
    result = quick()
    result.save_examples(tmp_path / "examples.npz")
    saved = np.load(tmp_path / "examples.npz", allow_pickle=False)
    models = {"original": original(), "hardened": hardened()}
    clean, labels = load_test_images()
    rows = [int(name[9:-1]) for name in saved["names"]]  # "test.npz[17]"
    assert np.array_equal(labels[rows], saved["labels"])
    assert saved["images"] == pytest.approx(clean[rows], abs=1e-7)
    for role, model in models.items():
        session = onnxruntime.InferenceSession(model.SerializeToString())
        robust, images = saved[f"{role}_robust"], saved[role]
        scores = session.run(None, {"image": images})[0]
        wrong = scores.argmax(axis=1) != saved["labels"]
        assert np.array_equal(wrong, ~robust)
        assert robust.any() and not robust.all()
        moved = images.astype(np.float64) - saved["images"]
        distance = np.abs(moved).max(axis=(1, 2, 3))
        assert distance.max() <= 0.1
        assert (distance[robust] == 0).all()


# Gates


def test_gates() -> None:
    result = quick(min_robust_accuracy=0.999, max_accuracy_drop=0.0)
    assert any("below --min-robust-accuracy" in gate for gate in result.failed_gates)
    assert quick(min_robust_accuracy=0.0, max_accuracy_drop=1.0).failed_gates == ()
    masked = quick(planted.shattered_gradients(original()), min_robust_accuracy=0.0)
    assert masked.verdict == "masked"
    (gate,) = masked.failed_gates
    assert "cannot be decided: masking checks failed" in gate
    masked = quick(planted.shattered_gradients(original()), max_accuracy_drop=1.0)
    assert "cannot be decided" in masked.failed_gates[0]


# Interruption


def test_interrupted_audit_goes_on_from_its_journal(tmp_path: Path) -> None:
    whole = quick()
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if len(lines) == 13:
            raise KeyboardInterrupt

    with pytest.raises(
        Interrupted, match=r"after 13 finished attacks; .* run the same command"
    ):
        quick(journal=tmp_path, notify=stop)
    kept = len(list(tmp_path.iterdir()))
    assert kept >= 6
    resumed = quick(journal=tmp_path)
    assert f"{kept} batches of an earlier run were read from the journal" in resumed.notes
    assert without_times(resumed) == without_times(whole)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"norm": "l2"}, {"samples": 23}])
def test_journal_of_other_settings_is_not_used(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    quick(journal=tmp_path)
    result = quick(journal=tmp_path, **changed)
    assert not any("earlier run" in note for note in result.notes)


@pytest.mark.parametrize("room", [0, 3])
def test_disk_that_fills_up_costs_the_journal_and_not_the_audit(
    tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, write = quick(), atomic.write_bytes
    written: list[Path] = []
    lines: list[str] = []

    def full(path: Path, *chunks: bytes) -> None:
        if len(written) == room:
            raise SaveError(f"'{path}' was not written: the disk is full")
        written.append(path)
        write(path, *chunks)

    monkeypatch.setattr(atomic, "write_bytes", full)
    result = quick(journal=tmp_path, notify=lines.append)
    assert without_times(result) == without_times(whole)
    (note,) = [note for note in result.notes if "the disk is full" in note]
    assert note.startswith(f"the journal '{tmp_path}' could not be written")
    assert lines.count(note) == 1
    assert len(list(tmp_path.iterdir())) == room


# Bad input


REFUSED_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"eps": 8}, OptionError, r"did you mean 8/255\?"),
    ({"attacks": "quick"}, OptionError, "attacks 'quick' is unknown: use fast or standard"),
    ({"norm": "l1"}, OptionError, "norm 'l1' is unknown"),
    ({"samples": 0}, OptionError, "samples is 0"),
    ({"scores": "gone"}, ModelError, "has no output 'gone': it gives 'logits"),
    ({"seed": -1}, OptionError, "seed"),
    ({"batch_size": 0}, OptionError, "batch size = 0"),
    ({"device": "tpu9"}, OptionError, "device 'tpu9' is"),
    ({"min_robust_accuracy": 30}, OptionError, "--min-robust-accuracy 30 is out of range"),
    ({"max_accuracy_drop": -0.1}, OptionError, "--max-accuracy-drop -0.1 is out of range"),
    ({"data": "nowhere/"}, DataError, "no such file or folder"),
]


@pytest.mark.parametrize(("options", "error", "match"), REFUSED_OPTIONS)
def test_illegal_options(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        quick(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there() -> None:
    with pytest.raises(ProviderError, match="sees 0 CUDA devices"):
        quick(device="cuda")


def other_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    changed = copy.deepcopy(model)
    tensor = changed.graph.initializer[-1]
    array = numpy_helper.to_array(tensor) + np.float32(1)
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
    return changed


def test_models_that_do_not_belong_together(small_cnn: Callable[[], Any]) -> None:
    with pytest.raises(ModelError, match=r"was hardened from a model with digest .*, and"):
        quick(hardened(), other_weights(original()))
    with pytest.raises(ModelError, match=r"takes image: .* they do not belong together"):
        quick(hardened(), small_cnn())


def test_model_without_provenance_is_taken_on_the_callers_word() -> None:
    result = quick(other_weights(original()))
    assert any("has no LipCompile provenance" in note for note in result.notes)


def test_labels_that_do_not_match() -> None:
    images, labels = load_test_images()
    with pytest.raises(DataError, match=r"holds 24 images and 20 labels"):
        quick(data=(images[:24], labels[:20]))
    with pytest.raises(DataError, match=r"label 10 of .* has 10 outputs"):
        quick(data=(images[:24], labels[:24] + 10 * (np.arange(24) == 3)))
    result = quick(data=(images[:24], (labels[:24] + 1) % 10))
    assert any("check labels and preprocessing" in note for note in result.notes)


def test_images_out_of_range() -> None:
    images, labels = load_test_images()
    with pytest.raises(DataError, match=r"divide by 255"):
        quick(data=(images[:24] * 255, labels[:24]))


def test_unsupported_operator_is_named() -> None:
    model = copy.deepcopy(original())
    source = model.graph.node[-1].input[0]
    node = helper.make_node("FastGelu", [source], ["gelu"], "strange", domain="com.microsoft")
    model.graph.node[-1].input[0] = "gelu"
    model.graph.node.insert(len(model.graph.node) - 1, node)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(ModelError, match=r"'com\.microsoft\.FastGelu' \(node 'strange'\)"):
        quick(model)


def test_original_without_a_gradient_path_is_refused() -> None:
    cut = planted.cut_gradients(original())
    with pytest.raises(ModelError, match=r"no gradient reaches the input of 'main_graph'"):
        quick(copy.deepcopy(cut), cut)


def test_random_model_is_refused() -> None:
    noisy = planted.random_layer(original())
    with pytest.raises(ModelError, match=r"the original model .* is not deterministic"):
        quick(noisy, noisy)


def test_nan_scores_are_refused() -> None:
    broken = copy.deepcopy(original())
    tensor = broken.graph.initializer[-1]
    array = np.full_like(numpy_helper.to_array(tensor), np.nan)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    with pytest.raises(NonFiniteError, match="gives NaN as class scores"):
        quick(copy.deepcopy(broken), broken)


def test_view_that_disagrees_with_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    from lipcompile.torchview import registry

    monkeypatch.setitem(
        registry.OPERATORS, "Relu", lambda _: lambda x: torch.relu(x) + 0.1 * x.abs()
    )
    with pytest.raises(CheckFailed, match=r"torch view of .* disagrees with ONNX Runtime"):
        quick()


class Hungry(Attack):
    """Runs out of memory on more than four images."""

    name = "hungry"

    def run(self, model: Any, pixels: Any, labels: Any, budget: Budget, start: Any) -> Any:
        if len(pixels) > self.limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 GB")
        return pixels

    limit = 4


def test_out_of_memory_halves_the_batch_and_says_so() -> None:
    result = quick(attacks=replace(QUICK, everywhere=(*QUICK.everywhere, Hungry())))
    said = [note for note in result.notes if "out of memory" in note]
    assert said[-1].endswith("went on with 2") or said[-1].endswith("went on with 4")
    (strike,) = [
        s
        for s in result.strikes
        if (s.attack, s.role, s.path) == ("hungry", "hardened", "white-box")
    ]
    assert strike.attacked.sum() == result.hardened.clean.sum()


def test_out_of_memory_with_a_single_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hungry, "limit", 0)
    with pytest.raises(RunFailure, match="out of memory with a single image"):
        quick(attacks=replace(QUICK, everywhere=(*QUICK.everywhere, Hungry())))
