"""What a sweep builds is what `harden` builds, and no model is kept."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import lipcompile
from lipcompile import model_io
from lipcompile.calibration.options import ScanOptions
from lipcompile.demo import CALIBRATION, MODEL, TEST
from lipcompile.errors import CheckFailed, DataError, Interrupted, ProviderError, RunFailure
from lipcompile.runtime import Session
from lipcompile.sweeping import trial
from lipcompile.sweeping.opening import DataOptions
from lipcompile.sweeping.settings import Setting, make_settings
from lipcompile.sweeping.trial import Bench
from tests.sweeping.benches import ALL, bench, classifier, labelled, pixels

SETTINGS = make_settings("2^-8,0.05", ensembles=["flip"])


@pytest.fixture(scope="module")
def made() -> Bench:
    reading = DataOptions(samples=20)
    return bench(MODEL, CALIBRATION, TEST, SETTINGS, reading, selector=None)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda x: x.name)
def test_a_setting_has_the_bytes_of_harden(
    setting: Setting, made: Bench, tmp_path: Path
) -> None:
    given = {"form": setting.form, "cr": setting.c_r, "zero_rate": setting.zero_rate}
    given = {k: v for k, v in given.items() if v is not None}
    if setting.variant == "weight":
        given["variant"] = "weight"
    calib = None if setting.variant == "none" else CALIBRATION
    ensemble = None if setting.ensemble is None else setting.ensemble.views
    path = tmp_path / "x.onnx"
    lipcompile.harden(MODEL, calib, ensemble=ensemble, output=path, **given)  # type: ignore[arg-type]
    task, compiled = made.build(setting)
    mine = tmp_path / "y.onnx"
    model_io.save(task.loaded, compiled.proto, mine)
    assert mine.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("variant", ["forged", "weight"])
def test_with_the_whole_table_as_well(variant: str, made: Bench, tmp_path: Path) -> None:
    assert made.table is not None
    setting = next(x for x in SETTINGS if x.variant == variant)
    path = tmp_path / "x.onnx"
    form = {"form": setting.form} if setting.form else {}
    words = {"cr": setting.c_r, "variant": variant, "output": path, **form}
    lipcompile.harden(MODEL, table=made.table, **words)  # type: ignore[arg-type]
    task, compiled = made.build(setting, made.table)
    model_io.save(task.loaded, compiled.proto, tmp_path / "y.onnx")
    assert (tmp_path / "y.onnx").read_bytes() == path.read_bytes()
    task, compiled = made.build(setting)  # planted: another table has another digest
    model_io.save(task.loaded, compiled.proto, tmp_path / "z.onnx")
    assert (tmp_path / "z.onnx").read_bytes() != path.read_bytes()


def test_no_session_of_a_setting_is_kept(made: Bench) -> None:
    def alive() -> int:
        gc.collect()
        return sum(type(x) is Session for x in gc.get_objects())

    before = alive()
    trials = [made.try_out(setting) for setting in SETTINGS]
    assert all(trial.classes is not None for trial in trials)
    assert alive() == before
    kept = made.examples.run(made.source)  # planted
    assert alive() == before + 1
    assert kept.count == 10


def test_the_original_is_not_edited(made: Bench) -> None:
    before = made.source.digest
    for setting in SETTINGS[:3]:
        made.build(setting)
    assert model_io.load(MODEL).digest == before


def plant(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise error

    monkeypatch.setattr(trial, "compile_task", fail)


@pytest.mark.parametrize(
    "error", [DataError("dead"), CheckFailed("wrong"), RunFailure("no memory")], ids=repr
)
def test_a_setting_that_cannot_be_had_is_a_row(
    error: Exception, made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(error, monkeypatch)
    found = made.try_out(SETTINGS[0])
    assert (found.problem, found.classes, found.layers) == (str(error), None, ())
    assert made.answers(SETTINGS[0]) is None


@pytest.mark.parametrize(
    "error", [Interrupted("stop"), ProviderError("no GPU"), ZeroDivisionError()], ids=repr
)
def test_what_is_wrong_with_every_setting_ends_the_sweep(
    error: Exception, made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(error, monkeypatch)
    for attempt in (made.try_out, made.answers):
        with pytest.raises(type(error)):
            attempt(SETTINGS[0])


def test_a_model_with_external_data(external_cnn: Callable[..., Path], tmp_path: Path) -> None:
    path = external_cnn(tmp_path / "a")
    rng = np.random.default_rng(0)
    images = rng.random((20, 3, 8, 8), dtype=np.float32)
    made = bench(path, images, (images, np.arange(20) % 4), [Setting("hard", 2**-3)])
    found = made.try_out(Setting("hard", 2**-3))
    assert found.problem is None and len(found.layers) == 2


def test_a_model_in_memory_stays_as_it_was() -> None:
    proto = classifier()
    before = proto.SerializeToString(deterministic=True)
    made = bench(proto, pixels(20), labelled(proto, 20))
    assert made.try_out(Setting("smooth", 2**-4)).problem is None
    assert proto.SerializeToString(deterministic=True) == before
    assert made.source.path is None and made.selector == ALL


def test_calibration_is_read_as_the_scan_says() -> None:
    made = bench(classifier(), pixels(20), labelled(classifier(), 20))
    assert made.scan == ScanOptions()
    assert made.table is not None and made.table.data.samples == 20
    assert isinstance(made.source.proto, onnx.ModelProto)
