"""Saving while the disk fails, fills up, is shared with another process, or is pulled away."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lipcompile
from lipcompile import external_data, model_io
from lipcompile.errors import LipCompileError, SaveError
from lipcompile.model_io import saving

CALLS = ("open", "link", "replace", "fsync", "copy_file_range", "fchmod", "unlink", "fdopen")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def edited(loaded: model_io.LoadedModel, note: str = "x") -> Any:
    return model_io.render(loaded.proto, loaded.graph_ir, {"note": note})


def is_whole(folder: Path, versions: set[bytes], data: dict[str, bytes]) -> None:
    """The model is one that somebody wrote, and has all of its data."""
    model = (folder / "out.onnx").read_bytes()
    known = model in versions  # apart: pytest would print megabytes
    assert known, len(model)
    for tensor in onnx.ModelProto.FromString(model).graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            name = next(e.value for e in tensor.external_data if e.key == "location")
            same = (folder / name).read_bytes() == data[name]
            assert same, sorted((p.name, p.stat().st_size) for p in folder.iterdir())


class _Broken:
    """A file whose k-th write fails."""

    def __init__(self, stream: Any, count: Callable[[], None]) -> None:
        self._stream, self._count = stream, count

    def write(self, block: bytes) -> int:
        self._count()
        return self._stream.write(block)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> _Broken:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def break_at(k: int, code: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Lets the k-th call to the system fail, of all that writing makes; gives their number."""
    calls = itertools.count(1)
    made = 0

    def count() -> None:
        nonlocal made
        made = next(calls)
        if made == k:
            raise OSError(code, os.strerror(code))

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            count()
            result = real(*args, **kwargs)
            return _Broken(result, count) if real is fdopen else result

        return call

    fdopen = os.fdopen
    for name in CALLS:
        if hasattr(os, name):
            monkeypatch.setattr(os, name, failing(getattr(os, name)))
    return lambda: made


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
@pytest.mark.parametrize("way", ["unnamed", "named"])
@pytest.mark.parametrize("old", [True, False], ids=["replaces", "creates"])
def test_every_call_that_fails_leaves_the_old_files_or_the_new_ones(
    old: bool, way: str, code: int, tmp_path: Path, external_cnn, monkeypatch
) -> None:
    loaded = model_io.load(external_cnn(tmp_path / "in"))
    other = external_cnn(tmp_path / "other")
    weights = bytearray((tmp_path / "other" / "net.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "other" / "net.bin").write_bytes(weights)
    if way == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    before, outcomes = contents(tmp_path / "in"), set()
    for k in itertools.count(1):
        out = tmp_path / f"out{k}"
        out.mkdir()
        if old:
            earlier = model_io.load(other)
            model_io.save(earlier, edited(earlier), out / "out.onnx")
        kept, failed = contents(out), None
        with monkeypatch.context() as patch:
            calls = break_at(k, code, patch)
            try:
                model_io.save(loaded, edited(loaded), out / "out.onnx")
            except LipCompileError as error:
                failed = error
        outcomes.add(failed and failed.exit_code)
        if failed:
            assert contents(out) == kept, f"call {k}"
        else:
            assert not any(path.name.endswith("-tmp") for path in out.iterdir()) or (
                calls() >= k  # it was the removal of the temporary name that failed
            )
            assert model_io.load(out / "out.onnx").metadata["note"] == "x"
        if calls() < k:
            break
    assert {None, 4} <= outcomes <= {None, 2, 4}
    assert k > 10, "the calls were not seen"
    assert contents(tmp_path / "in") == before


def test_weights_that_cannot_be_read_any_more(
    tmp_path: Path, external_cnn, monkeypatch
) -> None:
    loaded = model_io.load(external_cnn(tmp_path))
    before = contents(tmp_path)

    def broken(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(external_data, "open", broken, raising=False)
    with pytest.raises(SaveError, match=r"cannot be read \(Input/output error\), so '"):
        model_io.save(loaded, edited(loaded), tmp_path / "out.onnx")
    assert contents(tmp_path) == before
    with pytest.raises(LipCompileError, match="weight that cannot be read .*Input/output"):
        model_io.load(tmp_path / "net.onnx")


def test_a_neighbour_that_cannot_be_read_keeps_what_it_may_name(
    tmp_path: Path, external_cnn, small_cnn, monkeypatch
) -> None:
    loaded = model_io.load(external_cnn(tmp_path / "in"))
    out = tmp_path / "out"
    out.mkdir()
    model_io.save(loaded, edited(loaded), out / "out.onnx")
    (out / "theirs.onnx").write_bytes(b"secret")
    if hasattr(os, "mkfifo"):
        os.mkfifo(out / "pipe.onnx")  # reading it would block for ever
    read = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path.name == "theirs.onnx":
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    plain = model_io.load(small_cnn())
    model_io.save(plain, edited(plain), out / "out.onnx")
    assert len(list(out.glob("*.data"))) == 1


# The disk is full, and not only says so


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 64 KiB, where mounting one is permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, timeout=20)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("mounting is not permitted")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=20)


def wide(folder: Path, width: int, seed: int = 0) -> Path:
    """A model of two MatMul whose weights, width x width float32, lie in big.bin."""
    folder.mkdir(parents=True, exist_ok=True)
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> '
        f"g (float[n,{width}] x) => (float[n,{width}] y)"
        " { r = Relu (x) a = MatMul (r, w) s = Relu (a) y = MatMul (s, w) }"
    )
    array = np.random.default_rng(seed).normal(size=(width, width)).astype(np.float32)
    (folder / "big.bin").write_bytes(array.tobytes())
    tensor = model.graph.initializer.add(name="w", data_type=1, dims=[width, width])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "big.bin"), ("offset", 0), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "big.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_hardening_onto_a_full_disk(small_disk: Path, tmp_path: Path, capfd) -> None:
    from lipcompile.cli import main

    small, large = wide(tmp_path / "small", 8), wide(tmp_path / "large", 256)
    base = ["--calib", "random:1", "--rule", "all", "-o", str(small_disk / "out.onnx"), "-q"]
    assert main.run(["harden", str(small), *base]) == 0
    before = contents(small_disk)
    assert main.run(["harden", str(large), *base, "--force"]) == 4
    assert "the disk is full" in capfd.readouterr().err
    assert contents(small_disk) == before


# Two at once, and killed

_WORK = """
import json, os, random, signal, sys, time
from pathlib import Path
import lipcompile
from lipcompile import Selector

def once(model, table, out, cr):
    select = Selector("all")
    lipcompile.harden(model, table=table, selector=select, cr=cr, output=out, force=True)
"""
_TWO = (
    _WORK
    + """
model, table, out, cr, rounds = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(rounds)):
    once(model, table, out, cr)
"""
)


def table_of(model: Path, path: Path) -> Path:
    lipcompile.calibrate(
        model, "random:1", selector=lipcompile.Selector("all"), output=path, force=True
    )
    return path


def test_two_processes_that_harden_to_one_output(tmp_path: Path) -> None:
    """Of two models, so that each would find the other's data stale."""
    out, versions, data, jobs = tmp_path / "out", set(), {}, []
    out.mkdir()
    for seed in (0, 1):
        model = wide(tmp_path / f"in{seed}", 64, seed)
        table = table_of(model, tmp_path / f"t{seed}.json")
        alone = tmp_path / f"alone{seed}"
        alone.mkdir()
        for cr in ("0.1",):
            lipcompile.harden(
                model,
                table=table,
                selector=lipcompile.Selector("all"),
                cr=cr,
                output=alone / "out.onnx",
            )
            jobs.append([str(model), str(table), str(out / "out.onnx"), cr, "12"])
        found = contents(alone)
        versions.add(found.pop("out.onnx"))
        data |= found
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _TWO, *job],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for job in jobs
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, err = writer.communicate(timeout=120)
        assert writer.returncode == 0, err
    is_whole(out, versions, data)
    assert len(list(out.iterdir())) == 2, "the model and its data, and nothing of the other's"


_KILLED = (
    _WORK
    + """
# Forks, so that ONNX Runtime starts in each child, and imports are paid for once.
models, tables, out, kills, seed = sys.argv[1:]
models, tables, rng = models.split(","), tables.split(","), random.Random(int(seed))

from lipcompile import model_io
save = model_io.save

def start(index):
    # The child, once it begins to save.
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        def told(*args):
            os.write(writer, b".")
            return save(*args)

        model_io.save = told
        once(models[index], tables[index], out, "0.1")
        os._exit(0)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    return child

times = []
for index in (0, 1, 0):
    child, begin = start(index), time.monotonic()
    assert os.waitpid(child, 0)[1] == 0
    times.append(time.monotonic() - begin)
left, tries = int(kills), 0
while left and tries < 10 * int(kills):
    tries += 1
    child = start(tries % 2)
    time.sleep(rng.uniform(0, 0.8) * min(times))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    left -= os.WIFSIGNALED(status)
    print("killed" if os.WIFSIGNALED(status) else "done", flush=True)
    sys.stdin.readline()  # the state is looked at meanwhile
assert os.waitpid(start(0), 0)[1] == 0
print("end", flush=True)
"""
)


def kill_saves(kills: int, tmp_path: Path) -> dict[str, int]:
    """Kills hardenings that replace one model by another; checks the folder each time."""
    out, versions, data, models, tables = tmp_path / "out", set(), {}, [], []
    out.mkdir()
    for seed in (0, 1):
        models.append(wide(tmp_path / f"in{seed}", 2048, seed))  # 16 MiB
        tables.append(table_of(models[-1], tmp_path / f"t{seed}.json"))
        alone = tmp_path / f"alone{seed}"
        alone.mkdir()
        lipcompile.harden(
            models[-1],
            table=tables[-1],
            selector=lipcompile.Selector("all"),
            cr="0.1",
            output=alone / "out.onnx",
        )
        found = contents(alone)
        versions.add(found.pop("out.onnx"))
        data |= found
    arguments = [",".join(map(str, models)), ",".join(map(str, tables))]
    arguments += [str(out / "out.onnx"), str(kills), "1"]
    seen = {"killed": 0, "done": 0, "litter": 0}
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as killer:
        for line in killer.stdout:
            if line == "end\n":
                break
            seen[line.strip()] += 1
            is_whole(out, versions, data)
            seen["litter"] += sum(path.name.endswith("-tmp") for path in out.iterdir())
            killer.stdin.write("next\n")
            killer.stdin.flush()
    assert killer.returncode == 0
    is_whole(out, versions, data)
    assert not any(path.name.endswith("-tmp") for path in out.iterdir()), "nothing was swept"
    return seen


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_killed_save_leaves_a_whole_model(tmp_path: Path) -> None:
    assert kill_saves(3, tmp_path)["killed"] == 3


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_thirty_killed_saves_leave_whole_models(tmp_path: Path) -> None:
    seen = kill_saves(30, tmp_path)
    print(seen)
    assert seen["killed"] == 30


def test_a_model_without_its_data_would_be_seen(tmp_path: Path) -> None:
    """Planted: the check notices data that is missing, and a model that nobody wrote."""
    model = wide(tmp_path, 8).rename(tmp_path / "out.onnx")
    data = {"big.bin": (tmp_path / "big.bin").read_bytes()}
    is_whole(tmp_path, {model.read_bytes()}, data)
    with pytest.raises(AssertionError):
        is_whole(tmp_path, {b"another"}, data)
    os.truncate(tmp_path / "big.bin", 10)
    with pytest.raises(AssertionError):
        is_whole(tmp_path, {model.read_bytes()}, data)


def test_without_taking_turns_the_data_of_another_would_go(
    tmp_path: Path, external_cnn
) -> None:
    """Planted: what the lock is for. Both found what the other had just written."""
    loaded = model_io.load(external_cnn(tmp_path / "in"))
    out = tmp_path / "out.onnx"
    theirs = tmp_path / "out.onnx.01234567.data"
    theirs.write_bytes(b"written a moment ago, by a process that has still to write its model")
    out.write_bytes(b"old")
    saving._save(loaded, edited(loaded), out)
    assert not theirs.exists()


def test_a_lock_that_cannot_be_had_stops_nobody(tmp_path: Path, external_cnn, monkeypatch):
    import fcntl

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    loaded = model_io.load(external_cnn(tmp_path / "in"))
    assert len(model_io.save(loaded, edited(loaded), tmp_path / "out.onnx")) == 2


# The clock


def test_no_clock_that_can_be_set_is_read(tmp_path: Path, small_cnn, monkeypatch) -> None:
    """Durations come from clocks that only go forwards; no file holds a time."""
    jumps = itertools.cycle([0.0, 2e9, -5e8, 1e10])
    for name in ("time", "time_ns"):
        monkeypatch.setattr(time, name, lambda: next(jumps))
    (tmp_path / "m.onnx").write_bytes(small_cnn().SerializeToString())
    found = []
    for name in ("a", "b"):
        result = lipcompile.harden(
            tmp_path / "m.onnx",
            "random:2",
            selector=lipcompile.Selector("all"),
            output=tmp_path / f"{name}.onnx",
            save_table=tmp_path / f"{name}.json",
        )
        assert json.dumps(result.to_json())
        found.append((tmp_path / f"{name}.onnx").read_bytes())
        found.append((tmp_path / f"{name}.json").read_bytes())
    assert found[0] == found[2] and found[1] == found[3]
    sources = Path(lipcompile.__file__).parent.rglob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    for clock in ("time.time(", "time.time_ns(", "datetime", "localtime", "gmtime"):
        assert clock not in text
