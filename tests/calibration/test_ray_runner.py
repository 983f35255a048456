"""A scan on a Ray cluster gives the very table of the local runner, whatever happens to it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lipcompile
from lipcompile import CalibrationTable, ScanOptions
from lipcompile.calibration import journal, ray_runner
from lipcompile.cli.main import run
from lipcompile.demo import CALIBRATION, MODEL
from lipcompile.errors import DataError, RunFailure, SetupError

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Ray's own, and of what it imports
    pytest.mark.xdist_group("ray"),
]

ARRAY = np.random.default_rng(7).uniform(size=(300, 1, 28, 28)).astype("float32")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    quiet = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": False}
    ray.init("local", num_cpus=2, include_dashboard=False, **quiet)
    yield
    ray.shutdown()


def table(data: object, runner: str, **options: Any) -> CalibrationTable:
    scan = ScanOptions(runner=runner, **options)  # type: ignore[arg-type]
    count = options.pop("count_cr", ())
    return lipcompile.calibrate(MODEL, data, scan=scan, count_cr=count)


@pytest.mark.parametrize(
    "data",
    [CALIBRATION, ARRAY, pytest.param(list(ARRAY[:50]), marks=pytest.mark.slow)],
    ids=["files", "array", "list"],
)
def test_the_same_table(data: object, cluster: None) -> None:
    assert table(data, "ray") == table(data, "local")


def test_the_same_counts(cluster: None) -> None:
    tables = [
        lipcompile.calibrate(
            MODEL, ARRAY, count_cr=["2^-7", "2^-5"], scan=ScanOptions(runner=runner)
        )
        for runner in ("local", "ray")
    ]
    assert tables[0] == tables[1]
    assert tables[0].counts


@pytest.mark.slow
def test_a_shard_of_a_subset(cluster: None) -> None:
    some = {"samples": 100, "seed": 3, "shard": "2/3", "batch_size": 7}
    assert table(CALIBRATION, "ray", **some) == table(CALIBRATION, "local", **some)


def test_the_same_hardened_model_and_agreement(cluster: None) -> None:
    results = [
        lipcompile.harden(onnx.load(MODEL), CALIBRATION, scan=ScanOptions(runner=runner))
        for runner in ("local", "ray")
    ]
    assert results[0].model == results[1].model
    assert results[0].agreement == results[1].agreement
    assert results[0].agreement is not None and results[0].agreement.samples == 256


def test_bad_samples_are_left_out_by_name(tmp_path: Path, cluster: None) -> None:
    paths = sorted(CALIBRATION.glob("*.png"))[:40]
    for index, path in enumerate(paths):
        content = path.read_bytes() if index % 9 else b"no image"
        (tmp_path / path.name).write_bytes(content)
    found = table(tmp_path, "ray", on_bad_sample="skip")
    assert found == table(tmp_path, "local", on_bad_sample="skip")
    assert len(found.data.unreadable) == 5
    with pytest.raises(DataError, match=r"^sample '.*' cannot be decoded"):
        table(tmp_path, "ray")


def test_what_one_process_began_a_cluster_ends(
    tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SECONDS", 0.0)

    class Killed(BaseException):
        pass

    def kill(done: int, total: int | None) -> None:
        if done > 200:
            raise Killed

    arguments = {"output": tmp_path / "t.json", "scan": ScanOptions()}
    with pytest.raises(Killed):
        lipcompile.calibrate(MODEL, CALIBRATION, progress=kill, **arguments)
    assert (tmp_path / "t.partial.json").exists()
    seen: list[int] = []
    arguments["scan"] = ScanOptions(runner="ray")
    found = lipcompile.calibrate(
        MODEL, CALIBRATION, progress=lambda done, _: seen.append(done), **arguments
    )
    assert found == table(CALIBRATION, "local")
    assert min(seen) > 200
    assert os.listdir(tmp_path) == ["t.json"]


def workers() -> list[int]:
    """Processes of workers that measure right now; Ray names them so."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            title = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"ray::Worker.measure" in title:
            found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_a_worker_that_is_killed_in_the_middle(tmp_path: Path, cluster: None) -> None:
    lines = sorted(CALIBRATION.glob("*.png")) * 6
    (tmp_path / "list.txt").write_text("\n".join(map(str, lines)))
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(killed) < 2:
            for pid in workers():
                if pid not in killed:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    break
            time.sleep(0.2)

    killer = threading.Thread(target=kill)
    killer.start()
    found = table(tmp_path / "list.txt", "ray", batch_size=1)
    killer.join()
    assert killed
    assert found == table(tmp_path / "list.txt", "local")


@pytest.mark.slow
def test_a_part_that_kills_every_worker(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Doomed:
        def __init__(self, recipe: object) -> None:
            pass

        def measure(self, start: int, stop: int) -> None:
            os._exit(1)

    monkeypatch.setattr(ray_runner, "Worker", Doomed)
    with pytest.raises(RunFailure, match=r"^samples \d+ to \d+ of 'ndarray' lost 3 workers"):
        table(ARRAY[:4], "ray")


@pytest.mark.slow
def test_another_model_on_a_worker(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ray_runner._recipe

    def planted(*arguments: Any) -> Any:
        import dataclasses

        return dataclasses.replace(real(*arguments), digest="sha256:other")

    monkeypatch.setattr(ray_runner, "_recipe", planted)
    with pytest.raises(lipcompile.LipCompileError, match="a worker finds another model"):
        table(ARRAY[:4], "ray")


def test_data_that_cannot_be_divided(cluster: None) -> None:
    with pytest.raises(DataError, match="cannot be divided among workers"):
        table(iter(ARRAY), "ray")


def test_more_threads_than_the_cluster_has(cluster: None) -> None:
    with pytest.raises(SetupError, match="and a worker needs"):
        lipcompile.calibrate(
            MODEL,
            ARRAY,
            scan=ScanOptions(runner="ray"),
            runtime=lipcompile.RuntimeOptions(threads=64),
        )


def test_a_cluster_that_is_not_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("a token is missing\nand more")

    monkeypatch.setattr(ray, "init", refuse)
    command = ["calibrate", str(MODEL), "--calib", str(CALIBRATION), "--runner", "ray"]
    command += ["-o", str(tmp_path / "t.json"), "--ray-address"]
    assert run([*command, "auto"]) == 3
    assert "the Ray cluster at 'auto' cannot be reached (a token is" in capfd.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert run([*command, f"127.0.0.1:{port}"]) == 3  # no one listens there any more
    assert "cannot be reached ([Errno 111] Connection refused)" in capfd.readouterr().err
