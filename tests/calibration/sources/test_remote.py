"""Data behind URLs: read as from a folder here, and what happens when the network fails."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lipcompile.calibration.sources import remote, remote_files
from lipcompile.calibration.sources.picking import Shard
from lipcompile.errors import DataError, MissingExtraError, RunFailure
from tests.calibration.sources.data import encoded, names, opened, put, rows
from tests.calibration.sources.shards import content, npy, npz, tar

fsspec = pytest.importorskip("fsspec")
from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(remote_files, "_PAUSES", (0.0, 0.0, 0.0))
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder of everything, which is copied to memory://bucket."""
    images = {f"{i}.png": encoded(i) for i in range(5)}
    root = put(tmp_path / "here", {f"plain/{name}": data for name, data in images.items()})
    put(root, {"plain/.hidden.png": b"", "plain/sub/.git/x.png": b"", "one.png": encoded(0)})
    put(root, {"some.txt": b"plain/2.png\n./plain/../plain/0.png\n"})
    put(root, {"a.npy": npy(rows(4, 3, 4, 6)), "b.npz": npz(x=rows(4, 3, 4, 6))})
    put(root, {f"arrays/{i}.npy": npy(rows(4, 3, 4, 6)[i]) for i in range(4)})
    tar(root / "shards" / "s-0.tar", {k: images[k] for k in list(images)[:2]})
    tar(root / "shards" / "s-1.tar", {k: images[k] for k in list(images)[2:]})
    upload(root)
    return root


def upload(root: Path) -> None:
    for path in root.rglob("*"):
        if path.is_file():
            MemoryFileSystem().pipe(f"/bucket/{path.relative_to(root)}", path.read_bytes())


PLACES = [
    "plain",
    "one.png",
    "some.txt",
    "a.npy",
    "b.npz",
    "arrays",
    "shards",
    "shards/s-0.tar",
    "shards/s-{0..1}.tar",
    "shards/s-*.tar",
]


@pytest.mark.parametrize("protocol", ["memory", "file"])
@pytest.mark.parametrize("place", PLACES)
def test_urls_are_read_as_paths_are(here: Path, place, protocol):
    url = f"memory://bucket/{place}" if protocol == "memory" else f"file://{here}/{place}"
    there, want = opened(url), opened(here / place)
    assert (there.kind, there.label, there.count) == (want.kind, want.label, want.count)
    assert names(there) == names(want)
    assert content(there) == content(want)
    for options in ({"samples": 2, "seed": 1}, {"shard": Shard(1, 2)}):
        if want.count > 1:
            assert content(opened(url, **options)) == content(opened(here / place, **options))
    ahead = [o.loaded.digest for o in there.outcomes(threads=3)]
    assert ahead == [digest for digest, _ in content(want)]


def test_parquet_is_read_in_ranges(here: Path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    noise = [np.random.default_rng(i).bytes(10_000) for i in range(200)]
    table = pa.table({"image": [encoded(i % 5) for i in range(200)], "noise": noise})
    (here / "hub").mkdir()
    pq.write_table(table, here / "hub" / "train-00000-of-00001.parquet", row_group_size=20)
    upload(here)
    want = content(opened(here / "hub"))
    fetched = []
    fetch = MemoryFileSystem.cat_file

    def counted(self, path, start=None, end=None, **kwargs):
        data = fetch(self, path, start, end, **kwargs)
        fetched.append(len(data))
        return data

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    assert content(opened("memory://bucket/hub")) == want
    assert sum(fetched) < 1_000_000 < 2_000_000 < sum(map(len, noise)) + 1
    arrow = "memory://bucket/t.arrow"
    MemoryFileSystem().pipe("/bucket/t.arrow", b"x")
    with pytest.raises(DataError, match=r"'t\.arrow' is an Arrow file, .* copy it here, or"):
        opened(arrow)


def test_tars_are_indexed_in_large_ranges_and_read_in_exact_ones(here: Path, monkeypatch):
    members = {f"{i:04d}.png": encoded(i % 9) for i in range(300)}
    tar(here / "many.tar", members)
    upload(here)
    asked = []
    fetch = MemoryFileSystem.cat_file

    def counted(self, path, start=None, end=None, **kwargs):
        asked.append((start, end))
        return fetch(self, path, start, end, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    source = opened("memory://bucket/many.tar")
    assert len(asked) == 1
    list(source)
    assert len(asked) == 301
    assert {end - start for start, end in asked[1:]} == {len(d) for d in members.values()}


def test_stamps_come_from_the_listing(here: Path):
    before = opened("memory://bucket/plain").origin
    stamps = [before.stamp(i) for i in range(5)]
    MemoryFileSystem().pipe("/bucket/plain/2.png", encoded(9) + b"more")
    after = opened("memory://bucket/plain").origin
    assert after.listing() == before.listing()
    assert [i for i in range(5) if after.stamp(i) != stamps[i]] == [2]
    for place in ("a.npy", "shards"):
        old = opened(f"memory://bucket/{place}").origin.listing()
        assert old == opened(f"memory://bucket/{place}").origin.listing()
        name = "a.npy" if place == "a.npy" else "shards/s-1.tar"
        MemoryFileSystem().pipe(f"/bucket/{name}", MemoryFileSystem().cat(f"/bucket/{name}"))
        assert old != opened(f"memory://bucket/{place}").origin.listing()
    assert opened("memory://bucket/some.txt").origin.stamp(0) == ""


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("memory://bucket/nope", r"'memory://bucket/nope': there is no 'nope': check the URL"),
        ("memory://bucket/shards/s-{0..2}.tar", r"there is no 's-2\.tar'"),
        ("memory://bucket/shards/x*.tar", r"no file in 'shards' matches 'x\*\.tar'"),
        ("nope://bucket/x", r"'nope://bucket/x' cannot be opened \(Protocol not known: nope"),
        ("memory://bucket/some.csv", r"has the suffix '\.csv'"),
        ("memory://bucket/list.txt", r"sample 'gone\.png' cannot be read"),
        ("memory://bucket/bad", r"sample '1\.png' cannot be decoded \(the file is empty\)"),
        ("memory://bucket/cut.tar", r"tar archive 'cut\.tar' cannot be read \(cut off inside"),
        ("memory://bucket/bad.npy", r"array file 'bad\.npy' cannot be read"),
    ],
)
def test_urls_that_cannot_be_used(here: Path, url, match):
    put(here, {"some.csv": b"", "list.txt": b"gone.png", "bad/1.png": b"", "bad.npy": b"x"})
    put(here, {"cut.tar": (here / "shards" / "s-1.tar").read_bytes()[:1536]})
    upload(here)
    with pytest.raises(DataError, match=match):
        list(opened(url))


def test_bad_samples_can_be_skipped(here: Path):
    put(here, {"plain/bad.png": b"x", "some.txt": b"plain/0.png\ngone.png\n"})
    upload(here)
    source = opened("memory://bucket/plain", on_bad_sample="skip")
    assert (len(names(source)), source.skipped) == (5, ["bad.png"])
    source = opened("memory://bucket/some.txt", on_bad_sample="skip")
    assert (names(source), source.skipped) == (["plain/0.png"], ["gone.png"])


class Flaky:
    """Makes calls of the filesystem fail: so many of each, or by chance, or for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        self.error = error
        self.fails = lambda: False
        self.calls = 0
        for method in ("info", "find", "ls", "cat_file"):
            self._wrap(monkeypatch, method)

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        original = getattr(MemoryFileSystem, method)

        def call(*args: object, **kwargs: object) -> object:
            self.calls += 1
            if self.fails():
                raise self.error
            return original(*args, **kwargs)

        monkeypatch.setattr(MemoryFileSystem, method, call)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("error", [OSError("reset"), TimeoutError(), RuntimeError("x")])
def test_short_failures_of_the_network_change_nothing(here: Path, monkeypatch, place, error):
    want = content(opened(here / place))
    flaky, chance = Flaky(monkeypatch, error), random.Random(0)
    flaky.fails = lambda: chance.random() < 0.1
    failed = []
    assert content(opened(f"memory://bucket/{place}")) == want
    flaky.fails = lambda: failed.append(1) or len(failed) % 2 == 1  # every first try
    assert content(opened(f"memory://bucket/{place}")) == want
    assert len(failed) > 3


@pytest.mark.parametrize("skip", ["fail", "skip"])
@pytest.mark.parametrize("place", ["plain", "shards", "some.txt"])
def test_a_network_that_stays_away_ends_the_run_and_skips_nothing(
    here: Path, monkeypatch, place, skip
):
    flaky = Flaky(monkeypatch, OSError("https://user:word@host/x?sig=abc is down\nmore"))
    source = opened(f"memory://bucket/{place}", on_bad_sample=skip)
    flaky.fails = lambda: True
    for threads in (0, 2):
        with pytest.raises(RunFailure, match=r"reached \(https://host/x is down\), tried"):
            list(source.outcomes(threads=threads))
    assert source.skipped == []
    with pytest.raises(RunFailure, match=r"tried 4 times: check the network and the cred"):
        opened(f"memory://bucket/{place}")


def test_a_failing_network_is_told_from_a_damaged_parquet_file(here: Path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(
        pa.table({"image": [encoded(0)] * 3}), here / "t.parquet"
    )
    upload(here)
    flaky = Flaky(monkeypatch, OSError("down"))
    source = opened("memory://bucket/t.parquet", on_bad_sample="skip")
    flaky.fails = lambda: True
    with pytest.raises(RunFailure, match=r"'t\.parquet' of 'memory://bucket/t\.parquet'"):
        list(source)


def test_what_may_not_be_read_is_not_asked_for_again(here: Path, monkeypatch):
    flaky = Flaky(monkeypatch, PermissionError("Forbidden"))
    source = opened("memory://bucket/plain", samples=1)
    flaky.fails, flaky.calls = lambda: True, 0
    with pytest.raises(DataError, match=r"cannot be read \(Forbidden\): check the URL"):
        list(source)
    assert flaky.calls == 1


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("s3://bucket/x", "pip install s3fs"),
        ("simplecache::gs://bucket/x", "pip install gcsfs"),
        ("https://user:word@host/x.tar?sig=1", "pip install aiohttp requests"),
        ("dropbox://x", "install it beside fsspec"),
    ],
)
def test_missing_packages_are_named(monkeypatch, url, remedy):
    def missing(_: str) -> None:
        raise ImportError("Install it")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingExtraError) as caught:
        opened(url)
    assert str(caught.value).endswith(f"is not installed (Install it): {remedy}")
    assert "word" not in str(caught.value) and "sig" not in str(caught.value)


def test_without_fsspec_the_pip_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r'pip install "lipcompile\[remote\]"'):
        opened("memory://bucket/x")


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("s3://bucket/x", True),
        ("simplecache::s3://bucket/x", True),
        ("https://host/x.tar", True),
        ("folder/x", False),
        ("a::b/c", False),
        ("C://x", False),
        ("random:3", False),
        ("C:\\images", False),
        ("x y://z", False),
    ],
)
def test_what_is_a_url(name, url):
    assert remote.is_url(name) is url
