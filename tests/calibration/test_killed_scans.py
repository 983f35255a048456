"""A scan that is killed at any moment goes on where it was, and gives the identical table."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from lipcompile.calibration.table import load_table
from lipcompile.cli.main import run
from lipcompile.demo import CALIBRATION, MODEL
from tests.killing import kill_and_finish

CALIBRATE = ["calibrate", MODEL, "--calib", CALIBRATION, "--batch-size", 2]
COUNTS = ["--count-cr", "2^-7,2^-6"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "t.json"
    assert run([*map(str, CALIBRATE), *COUNTS, "-o", str(path), "-q"]) == 0
    return path.read_bytes()


def killed(seed: int, folder: Path, whole: bytes) -> int:
    rng = random.Random(seed)
    command = [*CALIBRATE, *COUNTS, "-o", "t.json", "-q", "--force"]
    kills, err = kill_and_finish(command, folder, 2.0, rng)
    assert (folder / "t.json").read_bytes() == whole
    assert os.listdir(folder) == ["t.json"], "nothing temporary stays"
    assert "afresh" not in err
    return kills


def test_killed_scans_give_the_identical_table(tmp_path: Path, whole: bytes) -> None:
    kills = 0
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        kills += killed(seed, folder, whole)
    assert kills, "no moment was before the end: nothing was tested"


@pytest.mark.slow
def test_a_hundred_kills(tmp_path: Path, whole: bytes) -> None:
    kills = seed = 0
    while kills < 100:
        seed += 1
        folder = tmp_path / str(seed)
        folder.mkdir()
        kills += killed(1000 + seed, folder, whole)


def test_what_a_killed_scan_leaves_is_a_table(tmp_path: Path, whole: bytes) -> None:
    """The journal of an unfinished scan serves as a table of what was seen."""
    from tests.killing import start

    running = start([*CALIBRATE, "-o", "t.json", "-q"], tmp_path)
    partial = tmp_path / "t.partial.json"
    while not partial.exists():
        assert running.poll() is None, running.communicate()
    running.kill()
    running.communicate()
    table = load_table(partial)
    assert not table.complete and 0 < table.data.samples < 512
    assert not (tmp_path / "t.json").exists()
