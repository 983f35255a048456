"""Tar shards: samples as WebDataset groups them, read as a folder's images are."""

from __future__ import annotations

import sys
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from lipcompile.calibration.sources.files import LocalFiles
from lipcompile.calibration.sources.opening import open_source
from lipcompile.calibration.sources.picking import Shard
from lipcompile.calibration.sources.tar_index import index_tars
from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec
from tests.calibration.sources.data import IDS, IMAGE, MASK, encoded, names, opened, put, rows
from tests.calibration.sources.shards import content, npy, npz, tar


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Seven images in three shards, and the same in a folder beside them."""
    images = {f"{i:05d}.png": encoded(i) for i in range(7)}
    put(tmp_path / "plain", images)
    for number in range(3):
        members = [
            pair
            for name, data in list(images.items())[number * 3 : number * 3 + 3]
            for pair in ((name, data), (name.replace("png", "cls"), b"7"))
        ]
        tar(tmp_path / "shards" / f"s-{number:02d}.tar", members)
    return tmp_path


def test_a_folder_of_shards_gives_what_a_folder_of_its_images_gives(shards: Path):
    source = opened(shards / "shards")
    assert (source.kind, source.label, source.count) == ("tar", "shards", 7)
    assert names(source)[2:4] == ["s-00.tar:00002.png", "s-01.tar:00003.png"]
    assert content(source) == content(opened(shards / "plain"))
    ahead = [o.loaded.digest for o in source.outcomes(2, 6, threads=3)]
    assert ahead == [digest for digest, _ in content(source)][2:6]


def test_patterns_and_single_archives(shards: Path):
    root = shards / "shards"
    plain = content(opened(shards / "plain"))
    assert content(opened(root / "s-{00..02}.tar")) == plain
    assert content(opened(str(root / "s-{02,00}.tar"))) == plain[6:] + plain[:3]
    source = opened(root / "s-01.tar")
    assert (source.label, content(source)) == ("s-01.tar", plain[3:6])
    with pytest.raises(DataError, match=r"s-03\.tar': no such file or folder; the nearest"):
        opened(root / "s-{00..03}.tar")


def test_subsets_and_parts_are_those_of_the_folder(shards: Path):
    for options in ({"samples": 4, "seed": 3}, {"shard": Shard(2, 3)}):
        parts = [opened(shards / kind, **options) for kind in ("shards", "plain")]
        assert content(parts[0]) == content(parts[1])
    start = [name for name, _ in opened(shards / "shards").pending(5)]
    assert start == ["s-01.tar:00005.png", "s-02.tar:00006.png"]


def test_the_origin_changes_with_a_shard(shards: Path):
    origin = opened(shards / "shards").origin
    before = origin.listing()
    assert before == opened(shards / "shards", samples=3).origin.listing()
    assert origin.stamp(2) == ""
    tar(shards / "shards" / "s-01.tar", {"x.png": encoded(9)})
    assert origin.listing() != before


SAMPLES = [
    ("good.jpg", encoded(1)),
    ("two.jpg", encoded(1)),
    ("two.png", encoded(2)),
    ("none.json", b"{}"),
    ("empty.jpg", b""),
    ("text.jpg", b"hello"),
    ("masked.png", encoded(3)),
    ("masked.mask.png", encoded(4)),
    ("only.view.png", encoded(5)),
    ("again.jpg", encoded(1)),
    ("again.jpg", encoded(1)),
    ("./dot/../a.b.c/upper.PNG", encoded(6)),
    ("/etc/absolute.png", encoded(7)),
    ("._good.jpg", b"resource fork"),
    ("__meta__.jpg__", b""),
    ("README", b""),
]


def test_samples_that_are_not_one_image_are_bad_samples(tmp_path: Path):
    path = tar(tmp_path / "s.tar", SAMPLES)
    source = opened(path, on_bad_sample="skip")
    found = [f"s.tar:{n}" for n in ("good.jpg", "masked.png", "only.view.png")]
    found += ["s.tar:./dot/../a.b.c/upper.PNG", "s.tar:/etc/absolute.png"]
    assert names(source) == found
    bad = ["two", "none", "empty.jpg", "text.jpg", "again"]
    assert source.skipped == [f"s.tar:{n}" for n in bad]
    reasons = {o.name: str(o.loaded) for o in source.outcomes() if o.name in source.skipped}
    assert (
        "'s.tar:two' holds 2 images (jpg, png), expected one: repair" in reasons["s.tar:two"]
    )
    assert "holds no image, expected one" in reasons["s.tar:none"]
    assert "(the file is empty)" in reasons["s.tar:empty.jpg"]
    assert "not an image that Pillow can read" in reasons["s.tar:text.jpg"]
    assert "holds 2 images (jpg, jpg)" in reasons["s.tar:again"]
    with pytest.raises(DataError, match=r"sample 's\.tar:two' holds 2 images"):
        list(opened(path))


def test_links_are_not_followed_and_nothing_is_written(tmp_path: Path):
    put(tmp_path / "in", {"secret.jpg": encoded(1), "good.png": encoded(2)})
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        archive.add(tmp_path / "in" / "good.png", "../../escaped.png")
        for name, kind in (("soft.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, str(tmp_path / "in" / "secret.jpg")
            archive.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    source = opened(tmp_path / "s.tar", on_bad_sample="skip")
    assert names(source) == ["s.tar:../../escaped.png"]
    assert source.skipped == ["s.tar:soft.jpg", "s.tar:hard.jpg"]
    with pytest.raises(DataError, match=r"soft\.jpg' cannot be read \('jpg' is a link\)"):
        list(opened(tmp_path / "s.tar", shard=Shard(2, 3)))
    assert sorted(tmp_path.rglob("*")) == before


def test_giant_members_and_shards_that_shrink(tmp_path: Path):
    with (tmp_path / "s.tar").open("wb") as file:
        info = tarfile.TarInfo("a.jpg")
        info.size = 2 << 30
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate((2 << 30) + 2048)  # a hole: takes no space
    with pytest.raises(DataError, match=r"a\.jpg' cannot be read \('jpg' is 2147483648 bytes"):
        list(opened(tmp_path / "s.tar"))
    tar(tmp_path / "s.tar", {"a.png": encoded(1), "b.png": encoded(2)})
    source = opened(tmp_path / "s.tar", on_bad_sample="skip")
    with (tmp_path / "s.tar").open("r+b") as file:
        file.truncate(1600)
    assert (names(source), source.skipped) == (["s.tar:a.png"], ["s.tar:b.png"])
    (tmp_path / "s.tar").unlink()
    with pytest.raises(DataError, match="all 2 samples.*'s.tar' cannot be read .No such file"):
        list(source)


@pytest.mark.parametrize(
    "members",
    [
        {"0.ids.npy": npy(rows(2, 5)[0].astype("int64")), "0.mask.npy": npy(np.ones(5, bool))},
        {"0.npz": npz(ids=rows(2, 5)[0].astype("int64"), mask=np.ones(5, bool))},
        {"0.ids.npy": npy(rows(2, 5)[0].astype("int64")), "0.npz": npz(mask=np.ones(5, bool))},
    ],
    ids=["npy", "npz", "both"],
)
def test_arrays_by_input(tmp_path: Path, members):
    data = {"ids": rows(2, 5)[:1].astype("int64"), "mask": np.ones((1, 5), bool)}
    extra = {"0.json": b"{}", "0.labels.npy": npy(np.ones(3))}
    source = open_source(
        tar(tmp_path / "s.tar", members | extra), [IDS, MASK], preprocess=None
    )
    assert content(source) == content(opened(data, IDS, MASK))
    assert names(source) == ["s.tar:0"]


def test_one_array_for_one_input(tmp_path: Path):
    data = rows(2, 3, 4, 6)
    members = {"0.npy": npy(data[0]), "1.X.npy": npy(data[1]), "1.y.npy": npy(np.ones(1))}
    assert content(opened(tar(tmp_path / "s.tar", members))) == content(opened(data))
    dotted = TensorSpec("input.1", "float32", ("n", 2))
    path = tar(tmp_path / "t.tar", {"0.input.1.npy": npy(rows(1, 2)[0])})
    assert content(opened(path, dotted)) == content(opened(rows(1, 2), dotted))


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ({"0.npy": b"x"}, r"array file 's\.tar:0\.npy' cannot be read"),
        (
            {"0.npy": npy(np.array([{}], dtype=object), allow_pickle=True)},
            r"cannot be read \(it has dtype object and shape",
        ),
        (
            {"0.x.npy": npy(rows(1, 3, 4, 6)[0]), "0.npz": npz(x=rows(1, 3, 4, 6)[0])},
            r"sample 's\.tar:0' holds the array 'x' twice",
        ),
        ({"0.a.npy": npy(rows(1, 2)), "0.b.npy": npy(rows(1, 2))}, "has no array for the inp"),
        ({"0.json": b"", "README": b""}, r"'s\.tar' holds no images .* in 1 tar archives"),
        ({}, r"holds no images"),
    ],
)
def test_array_samples_that_cannot_be_used(tmp_path: Path, members, match):
    with pytest.raises(DataError, match=match):
        list(opened(tar(tmp_path / "s.tar", members)))


def test_mixed_folders_and_packed_archives_are_refused(shards: Path):
    put(shards / "shards", {"logo.png": encoded(1)})
    with pytest.raises(DataError, match=r"several kinds, such as 's-00\.tar' and 'logo\.png'"):
        opened(shards / "shards")
    put(shards, {"s.tar.gz": b"\x1f\x8b", "t.tar": b"\x1f\x8b" + bytes(600)})
    with pytest.raises(DataError, match=r"'s\.tar\.gz' is compressed, so that .* unpack it"):
        opened(shards / "s.tar.gz")
    with pytest.raises(DataError, match=r"'t\.tar' cannot be read \(it is compressed with gz"):
        opened(shards / "t.tar")


def test_a_damaged_shard_fails_when_it_is_opened(shards: Path):
    path = shards / "shards" / "s-01.tar"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match=r"'s-01\.tar' cannot be read \(cut off inside '00003"):
        opened(shards / "shards", on_bad_sample="skip")


def test_an_index_of_1_3_million_samples_takes_less_than_100_mb(tmp_path: Path):
    members = [
        (f"n01440764_{i:08d}.{suffix}", b"") for i in range(2000) for suffix in ("jpg", "cls")
    ]
    files = LocalFiles(tar(tmp_path / "s.tar", members).parent)
    index = index_tars(files, ["s.tar"] * 3, lambda suffix: suffix == "jpg")
    held = [
        index.keys,
        index.key_ends,
        index.part_ends,
        index.kinds,
        index.starts,
        index.sizes,
    ]
    assert len(index) == 6000
    assert sum(map(sys.getsizeof, held)) / len(index) * 1_300_000 < 100e6
    as_objects = [index.parts(i) for i in range(len(index))]
    assert sum(sys.getsizeof(p) + sys.getsizeof(p[0]) for p in as_objects) > 100 * len(index)


def test_shards_written_and_read_by_webdataset(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wds = pytest.importorskip("webdataset")
        with wds.ShardWriter(f"{tmp_path}/w-%06d.tar", maxcount=4, verbose=0) as writer:
            for i in range(10):
                key = f"class{i % 2}/n{i:03d}" if i % 3 else f"{i:03d}"
                writer.write({"__key__": key, "png": encoded(i), "cls": i, "json": {"i": i}})
        pattern = str(tmp_path / "w-{000000..000002}.tar")
        theirs = [
            (sample["__key__"], sample["png"])
            for sample in wds.WebDataset(pattern, shardshuffle=False)
        ]
    put(tmp_path / "plain", {f"{i}.png": data for i, (_, data) in enumerate(theirs)})
    for data in (pattern, tmp_path / "only"):
        if data != pattern:
            put(data, {p.name: p.read_bytes() for p in tmp_path.glob("w-*.tar")})
        source = opened(data)
        assert source.count == len(theirs)
        assert [n.split(":")[1] for n in names(source)] == [f"{key}.png" for key, _ in theirs]
        assert content(source) == content(opened(tmp_path / "plain"))


def test_only_images_ask_for_preprocessing(tmp_path: Path):
    path = tar(tmp_path / "s.tar", {"a.png": encoded(1)})
    with pytest.raises(DataError, match=r"'s\.tar' holds images, which need preprocessing"):
        opened(path, IDS, MASK)
    assert opened(path, IMAGE).count == 1
