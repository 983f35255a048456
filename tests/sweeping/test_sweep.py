"""sweep() from one end to the other, without attacks, on small models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lipcompile
from lipcompile.calibration.options import ScanOptions
from lipcompile.ensembles.options import EnsembleOptions
from lipcompile.runtime import RuntimeOptions
from lipcompile.sweeping import comparing
from lipcompile.sweeping.opening import DataOptions
from lipcompile.sweeping.preparing import Preparing
from lipcompile.sweeping.results import SweepResult
from lipcompile.sweeping.settings import Setting, make_settings
from lipcompile.sweeping.sweep import sweep
from lipcompile.sweeping.trial import Bench, Trial
from tests.sweeping.benches import ALL, FEW, pixels

SLOW = {"seconds", "latency"}


def untimed(value: Any) -> Any:
    """A document without what the clock decides."""
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if k not in SLOW}
    return [untimed(v) for v in value] if isinstance(value, list) else value


def by_name(result: SweepResult) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in result.to_json()["settings"]}


def test_settings_are_measured_and_the_strongest_is_chosen(
    proto: onnx.ModelProto, data: tuple[np.ndarray, np.ndarray]
) -> None:
    result = sweep(proto, pixels(40), data, max_accuracy_drop=1.0, **FEW)
    said = json.loads(json.dumps(result.to_json()))
    assert said["schema"] == "lipcompile.sweep/1"
    assert (said["verdict"], said["failed_gates"]) == ("not attacked", [])
    assert said["chosen"] == "hard 2^-3"
    assert (said["data"]["choosing"], said["data"]["reporting"]) == (30, 30)
    assert [row["name"] for row in said["settings"]] == [
        *("hard 2^-6", "hard 2^-3", "weight 2^-6", "weight 2^-3")
    ]
    for row in said["settings"]:
        if row["problem"] is None:
            shares = [layer["suppressed"] for layer in row["layers"]]
            assert row["suppressed"] == pytest.approx(sum(shares) / len(shares))
            assert row["suppressed"] >= said["baseline"]["suppressed"] - 1e-12
            assert row["singular_mean"] <= said["baseline"]["singular_mean"] + 1e-9
            assert row["accuracy"]["n"] == row["agreement"]["n"] == 30
    assert said["confirmed"]["agreement"]["n"] == 30
    assert said["confirmed"]["audit"] is None
    text = str(result)
    assert text.count("\noriginal ") == 1
    assert "by layer:" in text and "verdict: not attacked" in text
    assert result.findings()[0].holds is None


def test_the_numbers_are_those_of_the_saved_model(
    proto: onnx.ModelProto, data: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """Accuracy and agreement on each part, recomputed from the files alone."""
    path = tmp_path / "m.onnx"
    result = sweep(proto, pixels(40), data, output=path, max_accuracy_drop=1.0, **FEW)
    import onnxruntime as ort

    images, labels = data
    order = np.random.default_rng(0).permutation(60)
    before, after = (
        np.asarray(
            ort.InferenceSession(x, providers=["CPUExecutionProvider"]).run(
                None, {"x": images}
            )[0]
        ).argmax(axis=1)
        for x in (proto.SerializeToString(), str(path))
    )
    assert result.chosen is not None and result.confirmed is not None
    chosen = by_name(result)[result.chosen.name]
    confirmed = result.confirmed.to_json()
    for rows, said in ((order[:30], chosen), (order[30:], confirmed)):
        assert said["accuracy"]["value"] == (after == labels)[rows].mean()
        assert said["agreement"]["value"] == (after == before)[rows].mean()
    assert confirmed["original_accuracy"]["value"] == (before == labels)[order[30:]].mean()


def test_a_second_run_says_the_same(
    proto: onnx.ModelProto, data: tuple[np.ndarray, np.ndarray]
) -> None:
    first, second = (
        sweep(proto, pixels(40), data, per_layer=True, **FEW).to_json() for _ in range(2)
    )
    assert untimed(first) == untimed(second)
    other = sweep(proto, pixels(40), data, reading=DataOptions(seed=5), **FEW)
    assert untimed(other.to_json()) != untimed(first)


def test_without_labels_agreement_takes_their_place(proto: onnx.ModelProto) -> None:
    result = sweep(
        proto, pixels(40), pixels(50, 3), reading=DataOptions(labelled=False), **FEW
    )
    said = result.to_json()
    assert said["budget"]["min_agreement"] == 0.99
    assert said["budget"]["max_accuracy_drop"] is None
    assert said["original"]["choosing"] == {"accuracy": None, "interval": None}
    for row in said["settings"]:
        assert row["accuracy"] is row["clean_difference"] is None
        assert row["problem"] is not None or 0 <= row["agreement"]["value"] <= 1
    assert "samples without labels" in str(result)


def test_ensembles_alone_need_an_attack_to_be_compared(
    proto: onnx.ModelProto, data: tuple[np.ndarray, np.ndarray]
) -> None:
    flip = EnsembleOptions("flip", image_input="x", layout="NCHW")
    result = sweep(
        proto, pixels(40), data, variants=[], ensembles=[flip], max_accuracy_drop=1.0
    )
    said = result.to_json()
    (row,) = said["settings"]
    assert (row["name"], row["layers"], row["suppressed"]) == ("ensemble flip", [], None)
    assert said["calibration"] is None and said["baseline"]["layers"] == []
    assert said["chosen"] is None and "pass --eps" in said["why"]
    assert result.failed_gates == ()


def test_per_layer_is_one_more_setting(
    proto: onnx.ModelProto, data: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    model, notes = tmp_path / "model.onnx", list[str]()
    onnx.save(proto, model)
    given = {**FEW, "cr": "2^-6:2^-1", "variants": ["forged"], "max_accuracy_drop": 0.05}
    result = sweep(
        *(model, pixels(40), data),
        per_layer=True,
        output=tmp_path / "out.onnx",
        save_cr=tmp_path / "cr.toml",
        save_table=tmp_path / "t.json",
        notify=notes.append,
        **given,
    )
    row = by_name(result)["hard per layer"]
    assert row["admitted"] and row["clean_difference"]["difference"] >= -0.05
    others = [x["singular_mean"] for x in by_name(result).values() if x["admitted"]]
    assert row["singular_mean"] == min(others)
    assert result.chosen is not None and result.chosen.name == "hard per layer"
    assert sum(note.startswith("per layer: fc.") for note in notes) >= 2
    c_rs = {layer["layer"]: layer["c_r"] for layer in row["layers"]}
    assert len(set(c_rs.values())) > 1
    lipcompile.harden(
        model,
        table=tmp_path / "t.json",
        form="hard",
        cr=row["c_r"],
        cr_by_layer=tmp_path / "cr.toml",
        selector=ALL,
        output=tmp_path / "again.onnx",
    )
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()
    assert result.command is not None and "--cr-file" in result.command


def test_per_layer_without_a_start_says_so(
    proto: onnx.ModelProto, data: tuple[np.ndarray, np.ndarray]
) -> None:
    notes: list[str] = []
    given = {**FEW, "cr": "0.9", "variants": ["forged"]}
    result = sweep(proto, pixels(40), data, per_layer=True, notify=notes.append, **given)
    assert result.chosen is None
    assert notes[-1] == "per layer: no forged setting to start from is admitted"


# Two parts


def lucky(parts: list[np.ndarray], labels: np.ndarray) -> Callable[..., Trial]:
    """A setting that is right wherever it is chosen, and wrong elsewhere."""
    real = Bench.try_out

    def try_out(self: Bench, setting: Setting) -> Trial:
        classes = (labels + 1) % 4
        classes[parts[0]] = labels[parts[0]]
        return replace(real(self, setting), classes=classes)

    return try_out


def test_luck_on_the_choosing_part_is_not_reported(
    proto: onnx.ModelProto,
    data: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    order = np.random.default_rng(0).permutation(60)
    monkeypatch.setattr(Bench, "try_out", lucky([order[:30]], data[1]))
    given = {**FEW, "variants": ["forged"], "output": tmp_path / "m.onnx"}
    result = sweep(proto, pixels(40), data, **given)
    assert result.chosen is not None and result.confirmed is not None
    row = by_name(result)[result.chosen.name]
    assert row["accuracy"]["value"] == 1.0 and row["clean_difference"]["difference"] > 0
    confirmed = result.confirmed.to_json()
    assert confirmed["accuracy"]["value"] == 0.0
    assert not confirmed["within_budget"]
    assert "a limit does not hold: clean accuracy fell by" in str(result)
    assert result.failed_gates == () and (tmp_path / "m.onnx").exists()
    (tmp_path / "m.onnx").unlink()
    strict = sweep(proto, pixels(40), data, max_accuracy_drop=0.01, **given)
    assert len(strict.failed_gates) == 1
    assert "clean accuracy fell by" in strict.failed_gates[0]
    assert not (tmp_path / "m.onnx").exists()


def test_planted_leak_between_the_parts_is_caught(
    proto: onnx.ModelProto,
    data: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The test above would fail if the chosen setting were reported where it was chosen."""
    order = np.random.default_rng(0).permutation(60)
    monkeypatch.setattr(Bench, "try_out", lucky([order[:30]], data[1]))
    real = comparing.Comparison.confirm

    def leaky(self: comparing.Comparison, chosen: Any) -> Any:
        self.parts = replace(self.parts, reporting=self.parts.choosing)
        return real(self, chosen)

    monkeypatch.setattr(comparing.Comparison, "confirm", leaky)
    result = sweep(proto, pixels(40), data, **FEW)
    assert result.confirmed is not None
    assert result.confirmed.to_json()["accuracy"]["value"] == 1.0


# Reading what was found


def test_a_limit_by_default_is_no_failure(
    proto: onnx.ModelProto,
    data: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = np.random.default_rng(0).permutation(60)
    monkeypatch.setattr(Bench, "try_out", lucky([order[:30]], data[1]))
    found = sweep(proto, pixels(40), data, **FEW).findings()
    assert [x.holds for x in found] == [None, None]
    assert found[1].evidence.startswith("by default, and no gate: clean accuracy fell by")
    asked = sweep(proto, pixels(40), data, max_accuracy_drop=0.01, **FEW).findings()
    assert [x.holds for x in asked] == [None, False]


def test_what_a_search_did_not_find_is_told(
    proto: onnx.ModelProto, data: tuple[np.ndarray, np.ndarray]
) -> None:
    given = {**FEW, "cr": "2^-9", "forms": ["hard"], "variants": ["forged"]}
    result = sweep(proto, pixels(40), data, per_layer=True, **given)
    assert any("per layer: no" in note for note in result.notes)
    assert "per layer: no" in str(result)


def test_inputs_of_layers_are_drawn_from_all_samples(
    proto: onnx.ModelProto, data: tuple[np.ndarray, np.ndarray]
) -> None:
    """In a folder of class folders the first samples are of one class."""
    images = np.concatenate([pixels(200), 2 * np.ones_like(pixels(200))])
    settings = make_settings("2^-6", ["hard"], ["forged"])
    preparing = Preparing(DataOptions(), ScanOptions(), RuntimeOptions(), None)
    bench, _ = preparing.run(proto, images, data, settings, None)
    seen = np.concatenate([next(iter(probe.feeds.values())) for probe in bench.probes])
    ones = int((seen == 2).all(axis=(1, 2, 3)).sum())
    assert len(seen) == 64 and 10 < ones < 54
