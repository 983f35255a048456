"""Interrupted scans go on where they were, or say why they start afresh."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lipcompile
from lipcompile import CalibrationTable, ScanOptions
from lipcompile.calibration import journal
from lipcompile.cli.main import run
from lipcompile.demo import CALIBRATION, MODEL
from lipcompile.errors import DataError, SaveError

COUNTS = ["2^-7", "2^-5"]
DATA = sorted(CALIBRATION.glob("*.png"))[:60]


class Killed(BaseException):
    """No handler of ours sees it: what is on disk is what a killed process leaves."""


def killer(after: int) -> Callable[[int, int | None], None]:
    calls = 0

    def progress(done: int, total: int | None) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise Killed

    return progress


@pytest.fixture(autouse=True)
def every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SECONDS", 0.0)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for index, path in enumerate(DATA):
        shutil.copy(path, folder / path.name)
        if index % 11 == 5:
            (folder / path.name).write_bytes(b"damaged")
    return folder


def options(**changed: Any) -> ScanOptions:
    return ScanOptions(batch_size=4, on_bad_sample="skip", **changed)


def calibrate(images: Path, output: Path, **changed: Any) -> CalibrationTable:
    usual: dict[str, Any] = {"count_cr": COUNTS, "scan": options(), "force": True}
    return lipcompile.calibrate(MODEL, images, output=output, **(usual | changed))


@given(kills=st.lists(st.integers(1, 40), max_size=4))
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_kills_at_any_batch(kills: list[int], images: Path, tmp_path: Path) -> None:
    whole = calibrate(images, tmp_path / "whole.json")
    for after in kills:
        try:
            calibrate(images, tmp_path / "t.json", progress=killer(after))
        except Killed:
            continue
    found = calibrate(images, tmp_path / "t.json")
    assert found == whole
    assert (tmp_path / "t.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["t.json", "whole.json"]


def interrupted(images: Path, folder: Path, **changed: Any) -> Path:
    """Leaves a journal after seven batches; the path of the table that was not written."""
    with pytest.raises(Killed):
        calibrate(images, folder / "t.json", progress=killer(7), **changed)
    assert (folder / "t.partial.json").exists()
    return folder / "t.json"


def first_seen(images: Path, output: Path, **changed: Any) -> int:
    seen: list[int] = []
    calibrate(images, output, progress=lambda done, _: seen.append(done), **changed)
    return seen[0]


def test_what_was_measured_is_not_measured_again(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = interrupted(images, tmp_path)
    assert first_seen(images, output) > 20
    assert "of 60 samples were measured before, going on from there" in caplog.text


def test_no_resume_starts_afresh(images: Path, tmp_path: Path) -> None:
    output = interrupted(images, tmp_path)
    assert first_seen(images, output, scan=options(resume=False)) == 4
    assert os.listdir(tmp_path) == ["t.json"]


@pytest.mark.parametrize(
    "changed",
    [
        {"scan": options(seed=1)},
        {"scan": options(shard="1/2")},
        {"scan": options(image_flags={"mean": (0.5,)})},
        {"scan": options(on_nonfinite="skip")},
        {"selector": lipcompile.Selector(exclude=("fc1",))},
    ],
    ids=["seed", "shard", "mean", "policy", "layers"],
)
def test_other_settings_start_afresh(
    changed: dict[str, Any], images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = interrupted(images, tmp_path)
    assert first_seen(images, output, **changed) == 4
    assert "is of other data or settings: starting afresh" in caplog.text


@pytest.mark.parametrize("what", ["added", "replaced", "touched"])
def test_other_files_start_afresh(
    what: str, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(images, copy)
    out = tmp_path / "out"
    out.mkdir()
    output = interrupted(copy, out)
    first = copy / DATA[0].name
    if what == "added":
        shutil.copy(first, copy / "zzz.png")
    elif what == "replaced":
        shutil.copy(DATA[1], first)
    else:
        os.utime(first, (1, 1))
    assert first_seen(copy, output) == 4
    assert "starting afresh" in caplog.text
    assert lipcompile.load_table(output) == calibrate(copy, tmp_path / "again.json")


def test_a_file_behind_what_was_read_may_change(images: Path, tmp_path: Path) -> None:
    """For example the damaged image that stopped the scan, repaired."""
    copy, out = tmp_path / "copy", tmp_path / "out"
    shutil.copytree(images, copy)
    out.mkdir()
    strict = ScanOptions(batch_size=2)
    with pytest.raises(DataError, match="cannot be decoded"):
        calibrate(copy, out / "t.json", scan=strict)
    for path in DATA:
        if (copy / path.name).read_bytes() == b"damaged":
            shutil.copy(path, copy / path.name)
    assert first_seen(copy, out / "t.json", scan=strict) > 2
    assert lipcompile.load_table(out / "t.json") == calibrate(
        copy, tmp_path / "again.json", scan=strict
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"covered": [[0', '"covered": [[7'),
        lambda text: text.replace('"stamps": ', '"stamps": 1'),
        lambda text: text.replace('"sketch": "', '"sketch": "0'),
        lambda text: "[" * 100_000,
        lambda text: json.dumps({"resume": {"maxima": 3}}),
        lambda text: json.dumps(json.loads(text) | {"resume": None}),
    ],
)
def test_a_damaged_journal_starts_afresh(
    damage: Callable[[str], str],
    images: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    output = interrupted(images, tmp_path)
    partial = tmp_path / "t.partial.json"
    partial.write_text(damage(partial.read_text()))
    assert first_seen(images, output) == 4
    assert "starting afresh" in caplog.text
    assert lipcompile.load_table(output) == calibrate(images, tmp_path / "again.json")


def test_a_folder_that_becomes_full_does_not_end_the_scan(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise SaveError("the disk is full")

    monkeypatch.setattr(journal, "write_bytes", full)
    found = calibrate(images, tmp_path / "t.json")
    assert found.complete
    assert caplog.text.count("could not be kept (the disk is full)") == 1


def test_harden_goes_on_and_compares_the_same_samples(images: Path, tmp_path: Path) -> None:
    def harden(output: str, **changed: Any) -> Any:
        return lipcompile.harden(
            MODEL, images, scan=options(), output=tmp_path / output, **changed
        )

    whole = harden("whole.onnx")
    with pytest.raises(Killed):
        harden("h.onnx", progress=killer(9))
    assert [p.name for p in tmp_path.glob("*.partial.json")]
    result = harden("h.onnx")
    assert (tmp_path / "h.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert result.agreement == whole.agreement
    assert not [p.name for p in tmp_path.glob("*.partial.json")]


def test_data_of_this_process_alone_is_never_taken_up(tmp_path: Path) -> None:
    array = np.random.default_rng(0).uniform(size=(40, 1, 28, 28)).astype("float32")
    with pytest.raises(Killed):
        calibrate(array, tmp_path / "t.json", progress=killer(5))  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


def test_a_model_in_memory_without_an_output_writes_nothing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Killed):
        lipcompile.harden(onnx.load(MODEL), images, scan=options(), progress=killer(5))
    with pytest.raises(Killed):
        lipcompile.calibrate(MODEL, images, scan=options(), progress=killer(5))
    assert os.listdir(tmp_path) == []


def test_a_dry_run_writes_no_journal(images: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        lipcompile.harden(
            MODEL,
            images,
            scan=options(),
            progress=killer(5),
            output=tmp_path / "h.onnx",
            dry_run=True,
        )
    assert os.listdir(tmp_path) == []


def test_the_command_line(images: Path, tmp_path: Path) -> None:
    command = ["calibrate", str(MODEL), "--calib", str(images), "--on-bad-sample", "skip"]
    output = interrupted(images, tmp_path, count_cr=())
    arguments = ["--batch-size", "4", "--no-resume", "-q", "-o", str(output)]
    assert run([*command, *arguments]) == 0
    assert os.listdir(tmp_path) == ["t.json"]
