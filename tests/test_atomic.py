"""Writing files: old or new and never half, whatever happens in between."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from lipcompile import atomic
from lipcompile.errors import OutputError, SaveError

BOTH_WAYS = pytest.mark.parametrize("unnamed", [True, False], ids=["unnamed", "named"])


def write_and(path, stop):
    with atomic.replacing(path) as stream:
        stream.write(b"half of the new one" * 10000)
        stop()


def use(unnamed, monkeypatch):
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@BOTH_WAYS
def test_a_file_is_created_and_replaced(unnamed, tmp_path, monkeypatch):
    use(unnamed, monkeypatch)
    path = tmp_path / "f"
    atomic.write_bytes(path, b"one", b"", b" two")
    assert path.read_bytes() == b"one two"
    atomic.write_bytes(path, b"x")
    assert path.read_bytes() == b"x"
    atomic.write_bytes(path)
    assert path.read_bytes() == b""
    assert names(tmp_path) == ["f"]


@BOTH_WAYS
def test_permissions_follow_the_umask(unnamed, tmp_path, monkeypatch):
    use(unnamed, monkeypatch)
    before = os.umask(0o027)
    try:
        atomic.write_bytes(tmp_path / "f", b"x")
        atomic.write_bytes(tmp_path / "f", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


@BOTH_WAYS
@pytest.mark.parametrize("name", ["a" * 255, "層" * 85, ".hidden", "with space\nand line"])
def test_any_legal_name_is_written_twice(unnamed, name, tmp_path, monkeypatch):
    use(unnamed, monkeypatch)
    for content in (b"one", b"two"):
        atomic.write_bytes(tmp_path / name, content)
        assert (tmp_path / name).read_bytes() == content
    assert names(tmp_path) == [name]


@BOTH_WAYS
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, OSError])
def test_an_exception_leaves_the_old_file(unnamed, kind, tmp_path, monkeypatch):
    use(unnamed, monkeypatch)
    path = tmp_path / "f"

    def stop():
        raise kind("stop")

    for before in (None, b"old"):
        if before:
            path.write_bytes(before)
        with pytest.raises(SaveError if kind is OSError else kind, match="stop|run again"):
            write_and(path, stop)
        assert names(tmp_path) == (["f"] if before else [])
        assert not before or path.read_bytes() == before


@BOTH_WAYS
def test_the_old_file_stands_until_the_block_ends(unnamed, tmp_path, monkeypatch):
    use(unnamed, monkeypatch)
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with atomic.replacing(path) as stream:
        stream.write(b"new" * 100000)
        stream.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" * 100000


def test_the_named_file_is_closed_before_it_is_renamed(tmp_path, monkeypatch):
    """Windows refuses to rename an open file."""
    use(False, monkeypatch)
    streams, closed = [], []
    replace = os.replace

    def spy(source, target):
        closed.append(streams[0].closed)
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    with atomic.replacing(tmp_path / "f") as stream:
        streams.append(stream)
        stream.write(b"x")
    assert closed == [True]
    assert (tmp_path / "f").read_bytes() == b"x"


# Killed in the middle

_OVERWRITE = """
import os, sys
from pathlib import Path
from lipcompile import atomic
if sys.argv[2] == "named":
    del os.O_TMPFILE
path, number = Path(sys.argv[1]), 0
print("ready", flush=True)
while True:
    number = (number + 1) % 256
    with atomic.replacing(path) as stream:
        for _ in range(16):
            stream.write(bytes([number]) * 40000)
    if number == 1:
        print("written", flush=True)
"""


def is_complete(content):
    return len(content) == 640_000 and content == content[:1] * len(content)


def kill_a_writer(path, way, seconds, after_first_write):
    command = [sys.executable, "-c", _OVERWRITE, str(path), way]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout.readline() == b"ready\n"
            if after_first_write:
                assert writer.stdout.readline() == b"written\n"
            time.sleep(seconds)
        finally:
            writer.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("way", ["unnamed", "named"])
def test_a_killed_writer_leaves_the_old_file_or_the_new_one(way, tmp_path):
    path = tmp_path / "f"
    rng = random.Random(way)
    seen, litter = set(), 0
    for kill in range(12):
        kill_a_writer(path, way, rng.uniform(0, 0.04), after_first_write=kill % 2 == 1)
        if path.exists():
            assert is_complete(path.read_bytes())
            seen.add(path.read_bytes()[0])
        litter += len(names(tmp_path)) - path.exists()
        atomic.write_bytes(path, bytes([0]) * 640_000)  # sweeps
        assert names(tmp_path) == ["f"]
    assert len(seen) > 1, "the writer never wrote: the test shows nothing"
    # An unnamed file has a name only for the instant between link and rename.
    assert way == "named" or litter <= 1


def test_a_reader_that_checks_would_see_a_plain_write(tmp_path):
    """Planted: without the temporary file a kill does leave half a file."""
    path = tmp_path / "f"
    path.write_bytes(bytes([1]) * 640_000)
    with path.open("wb") as stream:
        stream.write(bytes([2]) * 40_000)
        stream.flush()
        assert not is_complete(path.read_bytes())


def test_litter_of_dead_writers_is_swept_and_of_live_ones_kept(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as live:
        kept = [
            f".x.{live.pid}-0123abcd.lipcompile-tmp",
            f".x.{dead.pid}-0123abcd.lipcompile-tmp.bak",
            f"x.{dead.pid}-0123abcd.lipcompile-tmp",
            ".x.notanumber-0123abcd.lipcompile-tmp",
        ]
        swept = [
            f".x.{dead.pid}-0123abcd.lipcompile-tmp",
            f".a b.c.{dead.pid}-ffffffff.lipcompile-tmp",
            # A process of a container often has the number of the one that was killed.
            f".x.{os.getpid()}-0123abcd.lipcompile-tmp",
            f".x.{10**30}-0123abcd.lipcompile-tmp",
        ]
        for name in (*kept, *swept):
            (tmp_path / name).write_bytes(b"x")
        atomic.write_bytes(tmp_path / "f", b"x")
        assert names(tmp_path) == sorted([*kept, "f"])


def test_another_write_of_this_process_is_not_swept(tmp_path, monkeypatch):
    use(False, monkeypatch)
    with atomic.replacing(tmp_path / "a") as outer:
        outer.write(b"a")
        atomic.write_bytes(tmp_path / "b", b"b")
        atomic.write_bytes(tmp_path / "a", b"inner")
    assert (tmp_path / "a").read_bytes() == b"a"
    assert names(tmp_path) == ["a", "b"]


# Several writers


@BOTH_WAYS
def test_threads_that_write_one_file_never_mix(unnamed, tmp_path, monkeypatch):
    use(unnamed, monkeypatch)
    path, failures = tmp_path / "f", []

    def write(number):
        try:
            for _ in range(10):
                atomic.write_bytes(path, bytes([number]) * 300_000)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        content = path.read_bytes() if path.exists() else b""
        assert content == content[:1] * len(content) and len(content) in (0, 300_000)
    assert failures == []
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("way", ["unnamed", "named"])
def test_two_processes_that_write_one_file_never_mix(way, tmp_path):
    path = tmp_path / "f"
    command = [sys.executable, "-c", _OVERWRITE, str(path), way]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for writer in writers:
            writer.stdout.readline()
        seen, deadline = set(), time.monotonic() + 1
        while time.monotonic() < deadline:
            content = path.read_bytes() if path.exists() else None
            assert content is None or is_complete(content)
            seen.add(content and content[:1])
        assert [writer.poll() for writer in writers] == [None, None]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            writer.stdout.close()
    assert len(seen) > 2
    atomic.write_bytes(path, b"x")
    assert names(tmp_path) == ["f"]


# A disk that is full


@BOTH_WAYS
@pytest.mark.parametrize("moment", ["write", "fsync", "link"])
def test_a_full_disk_leaves_the_old_file(unnamed, moment, tmp_path, monkeypatch):
    use(unnamed, monkeypatch)
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    if moment == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif moment == "link":
        monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SaveError, match=r"f' was not written: the disk is full; free some"):
        write_and(path, full if moment == "write" else bool)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


_LIMITED = """
import resource, signal, sys
from pathlib import Path
from lipcompile import atomic
from lipcompile.errors import SaveError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
path = Path(sys.argv[1])
atomic.write_bytes(path, b"x" * 100_000)
try:
    if sys.argv[2] == "write":
        atomic.write_bytes(path, b"y" * 200_000)
    else:
        atomic.copy_file(Path(sys.argv[3]), path)
except SaveError as error:
    print(error)
"""


@pytest.mark.parametrize("how", ["write", "copy"])
def test_a_file_beyond_the_limit_of_the_system(how, tmp_path):
    (tmp_path / "big").write_bytes(b"z" * 200_000)
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "f"
    arguments = [str(path), how, str(tmp_path / "big")]
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, *arguments], capture_output=True, text=True
    )
    assert "was not written (File too large)" in done.stdout, done.stderr
    assert path.read_bytes() == b"x" * 100_000
    assert names(path.parent) == ["f"]


@pytest.fixture
def tiny_disk(tmp_path):
    """A filesystem of 1 MiB, where mounting one is permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, timeout=20)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("mounting is not permitted")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=20)


@BOTH_WAYS
def test_a_disk_that_is_really_full(unnamed, tiny_disk, tmp_path, monkeypatch):
    use(unnamed, monkeypatch)
    path = tiny_disk / "f"
    atomic.write_bytes(path, b"x" * 600_000)
    with pytest.raises(SaveError, match="the disk is full"):
        atomic.write_bytes(path, b"y" * 600_000)
    (tmp_path / "big").write_bytes(b"z" * 2_000_000)
    with pytest.raises(SaveError, match="the disk is full"):
        atomic.copy_file(tmp_path / "big", path)
    assert path.read_bytes() == b"x" * 600_000
    assert names(tiny_disk) == ["f"]
    atomic.write_bytes(path, b"y" * 300_000)  # what failed gave its space back


# Where nothing can be written


@BOTH_WAYS
def test_a_missing_folder(unnamed, tmp_path, monkeypatch):
    use(unnamed, monkeypatch)
    with pytest.raises(
        OutputError, match=r"cannot be written \(No such file.*writable folder"
    ):
        atomic.write_bytes(tmp_path / "nowhere" / "f", b"x")


@BOTH_WAYS
def test_a_file_in_place_of_the_folder(unnamed, tmp_path, monkeypatch):
    use(unnamed, monkeypatch)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written \\(Not a directory"):
        atomic.write_bytes(tmp_path / "file" / "f", b"x")


@BOTH_WAYS
def test_a_folder_that_is_read_only(unnamed, tmp_path, monkeypatch):
    use(unnamed, monkeypatch)

    def denied(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    # Not by chmod: the tests may run as root, whom it does not stop.
    monkeypatch.setattr(os, "open", denied)
    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(OutputError, match=r"cannot be written \(Permission denied\)"):
        atomic.write_bytes(tmp_path / "f", b"x")


@BOTH_WAYS
def test_folders_and_special_files_are_refused(unnamed, tmp_path, monkeypatch):
    use(unnamed, monkeypatch)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    for name, kind in [("folder", "a folder"), ("fifo", "not a reg"), ("link", "not a reg")]:
        with pytest.raises(OutputError, match=rf"{name}' is {kind}.*: name a file with -o"):
            atomic.write_bytes(tmp_path / name, b"x")
    assert (tmp_path / "fifo").is_fifo() and (tmp_path / "link").is_symlink()


def test_filesystems_without_unnamed_files_get_a_named_one(tmp_path, monkeypatch):
    real = os.open

    def refuse(path, flags, *args, **kwargs):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with atomic.replacing(tmp_path / "f") as stream:
        stream.write(b"x")
        assert len(names(tmp_path)) == 1  # the named temporary file
    assert names(tmp_path) == ["f"] and (tmp_path / "f").read_bytes() == b"x"


# Copies


@BOTH_WAYS
@pytest.mark.parametrize("size", [0, 1, (1 << 24) - 1, 1 << 24, (1 << 25) + 12345])
def test_copies_are_equal(unnamed, size, tmp_path, monkeypatch):
    use(unnamed, monkeypatch)
    content = random.Random(size).randbytes(size)
    (tmp_path / "a").write_bytes(content)
    atomic.copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == content
    assert (tmp_path / "a").read_bytes() == content
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("kernel", ["refuses", "copies nothing", "copies a part", "is old"])
def test_copies_do_not_depend_on_the_kernel(kernel, tmp_path, monkeypatch):
    content = random.Random(0).randbytes((1 << 24) + 99)
    (tmp_path / "a").write_bytes(content)
    real = os.copy_file_range
    calls = []

    def copy_file_range(source, target, count):
        calls.append(count)
        if kernel == "copies nothing":
            return 0
        if kernel == "refuses" or len(calls) > 1:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(source, target, 5_000_000)

    if kernel == "is old":
        monkeypatch.delattr(os, "copy_file_range")
    else:
        monkeypatch.setattr(os, "copy_file_range", copy_file_range)
    atomic.copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == content
    assert bool(calls) == (kernel != "is old")


@pytest.mark.parametrize("in_kernel", [True, False])
def test_a_copy_is_flat_in_memory(in_kernel, tmp_path, monkeypatch):
    if not in_kernel:
        monkeypatch.delattr(os, "copy_file_range")
    (tmp_path / "a").touch()
    os.truncate(tmp_path / "a", 200 << 20)  # sparse
    tracemalloc.start()
    try:
        atomic.copy_file(tmp_path / "a", tmp_path / "b")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "b").stat().st_size == 200 << 20
    assert peak < 40 << 20  # two blocks of 16 MiB, and change
    (tmp_path / "b").unlink()


def test_a_source_that_shrinks(tmp_path, monkeypatch):
    source = tmp_path / "a"
    source.write_bytes(b"x" * 1000)
    (tmp_path / "b").write_bytes(b"old")
    monkeypatch.setattr(atomic, "_COPY_BLOCK", 100)
    real = atomic._copy_block

    def shrink(*args):
        os.truncate(source, 500)
        return real(*args)

    monkeypatch.setattr(atomic, "_copy_block", shrink)
    with pytest.raises(SaveError, match=r"a' became shorter while it was copied to '.*b'"):
        atomic.copy_file(source, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"old"


def test_a_source_that_is_gone(tmp_path):
    with pytest.raises(SaveError, match=r"a' cannot be read \(No such file or directory\)"):
        atomic.copy_file(tmp_path / "a", tmp_path / "b")
    assert names(tmp_path) == []


def test_no_descriptor_is_left_open(tmp_path):
    def count():
        return len(list(Path("/proc/self/fd").iterdir()))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files can only be counted in /proc")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = count()
    for number in range(50):
        atomic.write_bytes(tmp_path / "f", b"x")
        atomic.copy_file(tmp_path / "f", tmp_path / "g")
        with pytest.raises(OutputError):
            atomic.write_bytes(tmp_path / f"nowhere{number}" / "f", b"x")
    assert count() <= before + 5 < soft  # other threads may hold some


def test_permissions_of_a_replaced_file_stay(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    path.chmod(0o604)
    atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o604


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="where the system takes advice")
def test_a_copy_goes_to_the_disk_while_it_is_made(tmp_path, monkeypatch):
    advised = []
    monkeypatch.setattr(atomic, "_COPY_BLOCK", 1000)
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *advice: advised.append(advice))
    (tmp_path / "a").write_bytes(os.urandom(2500))
    atomic.copy_file(tmp_path / "a", tmp_path / "b")
    kind = os.POSIX_FADV_DONTNEED
    assert advised == [(0, 1000, kind), (1000, 1000, kind), (2000, 500, kind)]


@pytest.mark.parametrize("advised", [True, False])
def test_a_copy_does_without_advice(tmp_path, monkeypatch, advised):
    def refuse(*_):
        raise OSError(errno.EINVAL, "no advice here")

    if advised:
        monkeypatch.setattr(os, "posix_fadvise", refuse, raising=False)
    else:
        monkeypatch.delattr(os, "posix_fadvise", raising=False)
    (tmp_path / "a").write_bytes(b"abc" * 1000)
    atomic.copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"abc" * 1000
