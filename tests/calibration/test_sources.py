"""What is read from folders, lists, array files and iterables, and what is refused."""

from __future__ import annotations

import io
import os
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lipcompile.calibration.image_files import decode
from lipcompile.calibration.preprocess import Preprocess
from lipcompile.calibration.sources import Sample, Source, open_source
from lipcompile.errors import DataError, OptionError
from lipcompile.signature import TensorSpec

IMAGE = TensorSpec("x", "float32", ("n", 3, 4, 6))
IDS = TensorSpec("ids", "int64", ("n", 5))
MASK = TensorSpec("mask", "bool", ("n", 5))
SCALAR = TensorSpec("t", "float32", ())


def encoded(seed: int, size: tuple[int, int] = (6, 4), kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(
        0, 256, (size[1], size[0], 3), dtype=np.uint8
    )
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def put(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def opened(data: object, *inputs: TensorSpec, **options: object) -> Source:
    return open_source(data, inputs or (IMAGE,), preprocess=Preprocess, **options)


def names(source: Source) -> list[str]:
    return [sample.name for sample in source]


def rows(n: int, *shape: int, dtype: str = "float32") -> np.ndarray:
    return np.arange(n * int(np.prod(shape, dtype=int))).reshape(n, *shape).astype(dtype)


def no_preprocess() -> Preprocess:
    raise AssertionError("only images need preprocessing")


class Reader:
    """Like ONNX Runtime's CalibrationDataReader."""

    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


# Images


def test_folder_is_read_recursively_in_the_order_of_relative_paths(tmp_path: Path):
    root = put(
        tmp_path / "photos",
        {
            "b/2.PNG": encoded(1),
            "b/1.jpg": encoded(2, kind="JPEG"),
            "a.tiff": encoded(3, kind="TIFF"),
            "z.webp": encoded(4),
            ".hidden.png": b"",
            ".git/x.png": b"",
            "notes.txt": b"",
        },
    )
    os.symlink(root / "a.tiff", root / "link.tif")
    os.symlink(root / "b", root / "linked")
    source = opened(root)
    assert (source.kind, source.label, source.count) == ("images", "photos", 5)
    samples = list(source)
    assert [s.name for s in samples] == ["a.tiff", "b/1.jpg", "b/2.PNG", "link.tif", "z.webp"]
    assert all(s.feeds["x"].shape == (3, 4, 6) and not s.whole for s in samples)
    assert samples[0].digest == samples[3].digest != samples[1].digest
    want = np.asarray(Image.open(root / "a.tiff"), np.float32).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(samples[0].feeds["x"], want, atol=1e-6)
    assert names(source) == [s.name for s in samples], "a source can be read again"


def test_list_file(tmp_path: Path):
    put(tmp_path, {"in/a.png": encoded(1), "in/b.png": encoded(2)})
    (tmp_path / "in/some.txt").write_text("\ufeff# first\n\nb.png\n  ../in/a.png \n", "utf-8")
    source = opened(str(tmp_path / "in/some.txt"))
    assert (source.kind, source.label, source.count) == ("list", "some.txt", 2)
    assert names(source) == ["b.png", "../in/a.png"]
    (tmp_path / "in/some.txt").write_text("b.png 7\n")
    with pytest.raises(DataError, match=r"'b\.png 7' cannot be read \(No such file"):
        names(opened(tmp_path / "in/some.txt"))


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"# nothing\n\n", "names no image: write one"), (b"\xff\xfe", "is not UTF-8 text")],
)
def test_list_files_that_cannot_be_used(tmp_path: Path, content, match):
    (tmp_path / "l.lst").write_bytes(content)
    with pytest.raises(DataError, match=match):
        opened(tmp_path / "l.lst")


def test_single_image_and_input_without_batch_axis(tmp_path: Path):
    put(tmp_path, {"one.bmp": encoded(1, kind="BMP")})
    (sample,) = opened(tmp_path / "one.bmp")
    assert (sample.name, sample.whole) == ("one.bmp", False)
    (sample,) = opened(tmp_path / "one.bmp", TensorSpec("x", "float32", (3, 4, 6)))
    assert sample.whole


def test_images_of_different_shapes_are_fine_where_the_model_is_dynamic(tmp_path: Path):
    put(tmp_path, {"a.png": encoded(1), "b.png": encoded(2, (8, 5))})
    source = opened(tmp_path, TensorSpec("x", "float32", ("n", 3, "h", "w")))
    assert [s.feeds["x"].shape for s in source] == [(3, 4, 6), (3, 5, 8)]
    with pytest.raises(DataError, match=r"'b\.png'.*takes shape \[3, 4, 6\] per sample, got"):
        list(opened(tmp_path))


GOOD_JPEG = encoded(9, (64, 64), "JPEG")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (
            b"",
            r"'bad\.jpg' cannot be decoded \(the file is empty\): replace it, or pass",
        ),
        (b"hello", r"cannot be decoded \(not an image that Pillow can read\): replace"),
        (
            GOOD_JPEG[:-400],
            r"cannot be decoded \(image file is truncated.*--on-bad-sample skip",
        ),
        (encoded(1)[:40], r"'bad\.jpg' cannot be decoded"),
    ],
    ids=["empty", "text", "truncated-jpeg", "truncated-png"],
)
def test_bad_images_fail_by_name_or_are_skipped_and_listed(tmp_path: Path, data, match):
    put(tmp_path, {"a.png": encoded(1), "bad.jpg": data, "c.png": encoded(2)})
    with pytest.raises(DataError, match=match):
        list(opened(tmp_path))
    source = opened(tmp_path, on_bad_sample="skip")
    assert names(source) == ["a.png", "c.png"]
    assert source.skipped == ["bad.jpg"]
    assert names(source) and source.skipped == ["bad.jpg"], (
        "reading again does not count twice"
    )


def test_16_bit_image_is_named(tmp_path: Path):
    Image.new("I;16", (6, 4)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"sample 'deep\.png': image mode 'I;16' holds more"):
        list(opened(tmp_path))


@pytest.mark.parametrize("limit", [20, 10], ids=["warning", "error"])
def test_decompression_bomb_is_an_error_without_a_warning(tmp_path: Path, monkeypatch, limit):
    put(
        tmp_path, {"bomb.png": encoded(1)}
    )  # 24 pixels: Pillow warns above 20, raises above 2x10
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            DataError, match=r"'bomb\.png' cannot be decoded \(Image size \(24"
        ):
            list(opened(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_file_without_permission(tmp_path: Path):
    put(tmp_path, {"a.png": encoded(1)}).joinpath("a.png").chmod(0)
    with pytest.raises(DataError, match=r"'a\.png' cannot be read \(Permission denied\)"):
        list(opened(tmp_path))


def test_permission_error_is_per_sample(tmp_path: Path, monkeypatch):
    put(tmp_path, {"a.png": encoded(1), "b.png": encoded(2)})
    read = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path.name == "a.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(
        DataError, match=r"'a\.png' cannot be read \(Permission denied\): replace"
    ):
        list(opened(tmp_path))
    source = opened(tmp_path, on_bad_sample="skip")
    assert (names(source), source.skipped) == (["b.png"], ["a.png"])


def test_named_pipe_and_dangling_link_do_not_block(tmp_path: Path):
    os.mkfifo(tmp_path / "a.png")
    os.symlink(tmp_path / "gone", tmp_path / "b.png")
    put(tmp_path, {"c.png": encoded(1)})
    source = opened(tmp_path, on_bad_sample="skip")
    assert (names(source), source.skipped) == (["c.png"], ["a.png", "b.png"])


def test_only_bad_images(tmp_path: Path):
    put(tmp_path, {"a.png": b"", "b.png": b"x"})
    with pytest.raises(
        DataError, match=r"all 2 samples of '.*' are bad; first: sample 'a\.png'"
    ):
        list(opened(tmp_path, on_bad_sample="skip"))


def test_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch):
    put(tmp_path, {"a.png": encoded(1), "secret/b.png": encoded(2)})
    scan = os.scandir

    def denied(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=r"secret' cannot be listed \(Permission denied\)"):
        opened(tmp_path)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"]),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    keep=st.floats(0, 1),
)
def test_damaged_bytes_give_an_image_or_a_data_error(kind, edits, keep):
    data = bytearray(encoded(0, (16, 16), kind))
    for place, value in edits:
        data[int(place * (len(data) - 1))] = value
    try:
        decode(bytes(data[: int(keep * len(data)) + 1]), "f")
    except DataError as err:
        assert str(err).startswith("sample 'f' cannot be decoded (") and "0x" not in str(err)


def test_images_need_one_input_and_a_transform(tmp_path: Path):
    put(tmp_path, {"a.png": encoded(1)})
    with pytest.raises(DataError, match=r"model with one input.*'ids: int64 \[n, 5\]'.*npz"):
        opened(tmp_path, IMAGE, IDS)
    with pytest.raises(DataError, match="need preprocessing"):
        open_source(tmp_path, [IMAGE], preprocess=None)


# Paths


def test_missing_and_empty_paths(tmp_path: Path):
    with pytest.raises(
        DataError, match=f"no such file or folder; the nearest .* is '{tmp_path}'"
    ):
        opened(tmp_path / "nope" / "deeper")
    with pytest.raises(DataError, match="no such file or folder"):
        opened("x" * 5000)
    with pytest.raises(DataError, match=r"holds no images .* and no .npy or .npz files"):
        opened(tmp_path)
    (tmp_path / "a.csv").write_text("1")
    with pytest.raises(DataError, match=r"has the suffix '\.csv': give a folder of images"):
        opened(tmp_path / "a.csv")


def test_folder_of_array_files(tmp_path: Path):
    np.save(tmp_path / "1.npy", rows(2, 3, 4, 6)[1])
    np.savez(tmp_path / "2.npz", x=rows(2, 3, 4, 6))
    (tmp_path / "3.npy").write_bytes(b"")
    source = opened(tmp_path, on_bad_sample="skip")
    assert (source.kind, source.count) == ("npz", 3)
    first, second = source
    assert (first.name, first.whole, second.name, second.whole) == (
        "1.npy",
        False,
        "2.npz",
        True,
    )
    assert source.skipped == ["3.npy"]


# Stacked arrays


@pytest.mark.parametrize("make", ["array", "dict", "npy", "npz", "npz-any-name"])
def test_stacked_samples_read_the_same_from_every_container(tmp_path: Path, make):
    data = rows(3, 3, 4, 6)
    np.save(tmp_path / "d.npy", data)
    np.savez(tmp_path / "d.npz", x=data, labels=np.arange(3))
    np.savez_compressed(tmp_path / "e.npz", input=data)
    forms = {
        "array": data,
        "dict": {"x": data, "y": np.arange(3)},
        "npy": tmp_path / "d.npy",
        "npz": tmp_path / "d.npz",
        "npz-any-name": tmp_path / "e.npz",
    }
    source = open_source(forms[make], [IMAGE], preprocess=no_preprocess)
    label = {"array": "ndarray", "npy": "d.npy", "npz": "d.npz", "npz-any-name": "e.npz"}
    assert source.label == label.get(make, "dict")
    assert source.kind == ("npy" if make in ("array", "npy") else "npz")
    samples = list(source)
    assert [s.name for s in samples] == [f"{source.label}[{i}]" for i in range(3)]
    for sample, row in zip(samples, data, strict=True):
        assert not sample.whole
        np.testing.assert_array_equal(sample.feeds["x"], row)
        assert type(sample.feeds["x"]) is np.ndarray
    assert [s.digest for s in samples] == [
        s.digest for s in open_source(data, [IMAGE], preprocess=None)
    ]


@pytest.mark.parametrize(
    ("inputs", "arrays", "whole", "shapes"),
    [
        ([IDS, MASK], {"ids": (7, 5), "mask": (7, 5)}, False, {"ids": (5,), "mask": (5,)}),
        (
            [IDS, MASK],
            {"ids": (7, 2, 5), "mask": (7, 2, 5)},
            True,
            {"ids": (2, 5), "mask": (2, 5)},
        ),
        (
            [IDS, MASK],
            {"ids": (7, 2, 5), "mask": (2, 5)},
            True,
            {"ids": (2, 5), "mask": (2, 5)},
        ),
        ([IDS, SCALAR], {"ids": (7, 5), "t": ()}, False, {"ids": (5,), "t": ()}),
        ([IDS, SCALAR], {"ids": (7, 2, 5), "t": (7,)}, True, {"ids": (2, 5), "t": ()}),
    ],
    ids=["samples", "whole", "whole-constant", "rank-0-constant", "rank-0-rows"],
)
def test_rank_rule(inputs, arrays, whole, shapes):
    dtypes = {"ids": "int64", "mask": "bool", "t": "float32"}
    data = {k: np.ones(shape, dtypes[k]) for k, shape in arrays.items()}
    source = opened(data, *inputs)
    assert source.count == 7
    for sample in source:
        assert sample.whole is whole
        assert {k: a.shape for k, a in sample.feeds.items()} == shapes


def test_fixed_batch_does_not_restrict_the_number_of_samples():
    spec = TensorSpec("x", "float32", (4, 2))
    assert opened(rows(7, 2), spec).count == 7
    assert all(s.whole for s in opened(rows(3, 4, 2), spec))
    with pytest.raises(DataError, match=r"takes shape \[4, 2\], got \[5, 2\]"):
        opened(rows(3, 5, 2), spec)


@pytest.mark.parametrize(
    ("data", "inputs", "match"),
    [
        (rows(2, 3, 4, 5), [IMAGE], r"takes shape \[3, 4, 6\] per sample, got \[3, 4, 5\]"),
        (rows(3, 4, 6), [IMAGE], r"expected rank 4 \(samples along axis 0\) or 5"),
        (rows(0, 3, 4, 6), [IMAGE], r"holds no samples \(length 0\)"),
        (
            rows(2, 3, 4, 6, dtype="uint8"),
            [IMAGE],
            r"takes float32, got uint8.*astype\('float32'",
        ),
        (rows(2, 3, 4, 6, dtype="bool"), [IMAGE], "takes float32, got bool"),
        (rows(2, 5), [IDS], "takes int64, got float32: scale"),
        (np.full((2, 3, 4, 6), "a"), [IMAGE], "takes float32, got <U1"),
        (np.full((2, 3, 4, 6), None), [IMAGE], "takes float32, got object"),
        (
            rows(2, 5, dtype="int64"),
            [IDS, MASK],
            r"is one array, but the model takes .*'mask: bool \[n, 5\]'.*\.npz",
        ),
        ({"ids": rows(2, 5)}, [IDS, MASK], r"it has \['ids'\]: name each array"),
        (
            {"ids": rows(2, 5), "z": rows(2, 5)},
            [IDS],
            r"arrays \['z'\] that are no inputs.*ids: in",
        ),
        (
            {"ids": rows(2, 5, dtype="int64"), "mask": rows(3, 5, dtype="bool")},
            [IDS, MASK],
            r"different lengths \[2, 3\]",
        ),
        ({"ids": [1, 2]}, [IDS], "gives a 'list' for input 'ids', expected a NumPy array"),
        (rows(2, 5), [TensorSpec("s", None, ("n",))], "is not a tensor of numbers"),
        (rows(2, 5), [], "the model has no inputs"),
    ],
)
def test_stacked_arrays_that_do_not_fit(data, inputs, match):
    with pytest.raises(DataError, match=match):
        open_source(data, inputs, preprocess=None)


@pytest.mark.parametrize(
    ("target", "source"),
    [
        ("float32", "float64"),
        ("float32", "float16"),
        ("float32", ">f4"),
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("int64", "uint8"),
        ("uint8", "int64"),
        ("bool", "bool"),
    ],
)
def test_casts_that_keep_the_values(target, source):
    data = np.array([[0, 1]], dtype=source)
    (sample,) = opened(data, TensorSpec("x", target, ("n", 2)))
    assert sample.feeds["x"].dtype.name == target
    assert sample.feeds["x"].astype(float).tolist() == [0, 1]


def test_integers_must_fit():
    spec = TensorSpec("x", "uint8", ("n", 2))
    with pytest.raises(DataError, match=r"\[0\].*takes uint8, got int64 values from 0 to 256"):
        list(opened(np.array([[0, 256]]), spec))
    with pytest.raises(
        DataError, match=r"\[1\].*takes uint8, got int64 values from -1 to 300"
    ):
        list(opened(np.array([[0, 255], [-1, 300]]), spec))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_non_finite_values_name_the_sample_and_the_input(value):
    data = np.zeros((3, 2))
    data[1, 0] = value
    spec = TensorSpec("x", "float32", ("n", 2))
    with pytest.raises(
        DataError, match=r"'ndarray\[1\]': input 'x' holds NaN or Inf as float32"
    ):
        list(opened(data, spec))
    source = opened(data, spec, on_bad_sample="skip")
    assert names(source) == ["ndarray[0]", "ndarray[2]"]
    assert source.skipped == ["ndarray[1]"]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("empty.npy", lambda f: f.write_bytes(b"")),
        ("text.npz", lambda f: f.write_text("hello")),
        ("pickle.npy", lambda f: np.save(f, np.array([{}], dtype=object))),
        ("pickle.npz", lambda f: np.savez(f, x=np.array([{}], dtype=object))),
        ("cut.npy", lambda f: (np.save(f, rows(9, 9)), f.write_bytes(f.read_bytes()[:-9]))),
        ("cut.npz", lambda f: (np.savez(f, rows(9, 9)), f.write_bytes(f.read_bytes()[:-99]))),
    ],
)
def test_array_files_that_cannot_be_read(tmp_path: Path, name, write):
    write(tmp_path / name)
    with pytest.raises(DataError, match=f"array file '{name}' cannot be read .*np.savez"):
        opened(tmp_path / name)


# Random data, iterables, readers


def test_random_data_is_asked_for_and_repeats_with_its_seed():
    inputs = [IMAGE, IDS, MASK, TensorSpec("h", "float16", ("n", "d", 3)), SCALAR]
    source = opened("random:4", *inputs, seed=3)
    assert (source.kind, source.label, source.count) == ("random", "random:4", 4)
    samples = list(source)
    assert [s.name for s in samples] == [f"random[{i}]" for i in range(4)]
    feeds = samples[0].feeds
    assert {k: (a.dtype.name, a.shape) for k, a in feeds.items()} == {
        "x": ("float32", (3, 4, 6)),
        "ids": ("int64", (5,)),
        "mask": ("bool", (5,)),
        "h": ("float16", (1, 3)),
        "t": ("float32", ()),
    }
    assert set(np.unique(feeds["ids"])) <= {0, 1} and not samples[0].whole
    digests = [s.digest for s in samples]
    assert len(set(digests)) == 4
    assert digests == [s.digest for s in opened("random:4", *inputs, seed=3)]
    assert digests != [s.digest for s in opened("random:4", *inputs, seed=4)]


@pytest.mark.parametrize("text", ["random:0", "random:", "random:-1", "random:x"])
def test_random_data_needs_a_count(text):
    with pytest.raises(OptionError, match="write random:N with N samples, N >= 1"):
        opened(text)


def test_random_data_needs_a_rank():
    with pytest.raises(DataError, match="has no known rank"):
        opened("random:1", TensorSpec("x", "float32", None))


def test_iterables_of_samples_and_of_complete_feeds():
    spec = TensorSpec("x", "float32", ("n", 2))
    items = [np.zeros(2), np.zeros((3, 2)), {"x": np.zeros(2), "label": 1}]
    source = opened(items, spec)
    assert (source.kind, source.label, source.count) == ("iterable", "list", 3)
    assert [(s.name, s.whole) for s in source] == [
        ("item 0", False),
        ("item 1", True),
        ("item 2", False),
    ]
    stream = opened((item for item in items), spec)
    assert (stream.kind, stream.label, stream.count) == ("iterable", "generator", None)
    assert len(list(stream)) == 3
    with pytest.raises(DataError, match=r"gave no sample.*an iterator that was already read"):
        list(stream)


@pytest.mark.parametrize(
    ("item", "match"),
    [
        (
            np.zeros((1, 1, 2)),
            r"sample 'item 0' has arrays of shape .*\[1, 1, 2\].*batch axis",
        ),
        (np.zeros(3), r"takes shape \[2\] per sample, got \[3\]"),
        (np.zeros((0, 2)), r"takes shape \[n, 2\], got \[0, 2\]"),
        ((np.zeros(2), 1), "is a 'tuple', expected a NumPy array or a dict .* without labels"),
        ({"x": [0.0, 0.0]}, "gives a 'list'"),
        (
            {"z": np.zeros(2), "w": np.zeros(2)},
            r"no array for the inputs \['x: float32 \[n, 2\]'",
        ),
    ],
)
def test_items_that_do_not_fit(item, match):
    spec = TensorSpec("x", "float32", ("n", 2))
    with pytest.raises(DataError, match=match):
        list(opened([item], spec))
    source = opened([item, np.zeros(2)], spec, on_bad_sample="skip")
    assert (names(source), source.skipped) == (["item 1"], ["item 0"])


def test_items_of_several_inputs_agree_on_the_batch_axis():
    feeds = {"ids": np.zeros((1, 5), int), "mask": np.zeros(5, bool)}
    with pytest.raises(
        DataError, match="give every input with its batch axis, or every input"
    ):
        list(opened([feeds], IDS, MASK))


def test_reader_gives_complete_feeds_until_none():
    feeds = [{"ids": np.full((2, 5), i)} for i in range(3)]
    source = opened(Reader(feeds), IDS)
    assert (source.kind, source.label, source.count) == ("reader", "Reader", None)
    assert [(s.name, s.whole) for s in source] == [(f"item {i}", True) for i in range(3)]
    assert len(list(opened(Reader(feeds), IDS, samples=2))) == 2
    with pytest.raises(DataError, match=r"takes shape \[n, 5\], got \[5\]"):
        list(opened(Reader([{"ids": np.zeros(5, int)}]), IDS))


def test_unreadable_types():
    with pytest.raises(DataError, match="of type 'int' cannot be read: give a path"):
        opened(3)


# Subsets, options, digests


class Loader:
    """Sized and iterable but not indexed, like torch's DataLoader."""

    def __len__(self) -> int:
        return 50

    def __iter__(self):
        return iter(rows(50, 2))


class Dataset:
    """Sized and indexed but not iterable, like torch's Dataset."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> np.ndarray:
        return rows(50, 2)[index]


@pytest.mark.parametrize("data", [rows(50, 2), list(rows(50, 2)), Loader(), Dataset()])
def test_sized_sources_give_a_sorted_random_subset(data):
    spec = TensorSpec("x", "float32", ("n", 2))
    source = opened(data, spec, samples=8, seed=5)
    want = sorted(np.random.default_rng(5).choice(50, 8, replace=False))
    assert source.count == 8
    assert [int(s.feeds["x"][0]) // 2 for s in source] == want
    assert names(source)[0].rstrip("]").endswith(str(want[0]))
    assert len(list(opened(data, spec, samples=50))) == 50
    assert opened(data, spec, samples=10**9).count == 50


def test_unsized_sources_give_the_first_samples_and_read_no_further():
    items = iter(rows(50, 2))
    spec = TensorSpec("x", "float32", ("n", 2))
    assert [int(s.feeds["x"][0]) for s in opened(items, spec, samples=3)] == [0, 2, 4]
    assert next(items)[0] == 6


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"samples": 0}, "samples is 0: take 1 or more"),
        ({"on_bad_sample": "ignore"}, "on_bad_sample is 'ignore': take one of fail, skip"),
    ],
)
def test_illegal_options(options, match):
    with pytest.raises(OptionError, match=match):
        opened(rows(2, 3, 4, 6), **options)


@given(order=st.permutations(list(range(6))), seed=st.integers(0, 9))
def test_array_digests_do_not_depend_on_order_or_position(order, seed):
    data = np.random.default_rng(seed).standard_normal((6, 2)).astype(np.float32)
    spec = TensorSpec("x", "float32", ("n", 2))
    straight = [s.digest for s in opened(data, spec)]
    mixed = [s.digest for s in opened([data[i] for i in order], spec)]
    assert mixed == [straight[i] for i in order]
    assert len(set(straight)) == 6


def test_image_digests_do_not_depend_on_paths(tmp_path: Path):
    data = [encoded(i) for i in range(4)]
    put(tmp_path / "a", {f"{i}.png": d for i, d in enumerate(data)})
    random.Random(0).shuffle(data)
    put(tmp_path / "b", {f"deep/{i}.jpg": d for i, d in enumerate(data)})
    first, second = ({s.digest for s in opened(tmp_path / k)} for k in "ab")
    assert first == second and len(first) == 4


def test_digest_tells_name_dtype_and_shape_apart():
    zeros = np.zeros(4, np.float32)
    digests = {
        next(
            iter(opened([array], TensorSpec(name, array.dtype.name, (1, *array.shape))))
        ).digest
        for name, array in [
            ("x", zeros),
            ("z", zeros),
            ("x", zeros.reshape(2, 2)),
            ("x", zeros.view(np.int32)),
        ]
    }
    assert len(digests) == 4


def test_samples_do_not_share_memory_with_the_data():
    data = rows(2, 2)
    sample = next(iter(opened(data, TensorSpec("x", "float32", ("n", 2)))))
    assert isinstance(sample, Sample) and not np.shares_memory(sample.feeds["x"], data)
