"""Hugging Face datasets on disk: rows of Arrow and parquet files."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lipcompile.calibration.sources import table_formats
from lipcompile.calibration.sources.opening import open_source
from lipcompile.calibration.sources.picking import Shard
from lipcompile.errors import DataError, MissingExtraError
from lipcompile.signature import TensorSpec
from tests.calibration.sources.data import IDS, IMAGE, MASK, encoded, names, opened, put, rows
from tests.calibration.sources.shards import content

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGES = [encoded(i) for i in range(7)]


def write_parquet(path: Path, table, rows_per_block: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows_per_block)
    return path


def write_stream(path: Path, table, rows_per_block: int = 2, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_stream(path, table.schema, **options) as writer:
        writer.write_table(table, rows_per_block)
    return path


def write_file(path: Path, table, rows_per_block: int = 2) -> Path:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, rows_per_block)
    return path


WRITERS = {"a.parquet": write_parquet, "a.arrow": write_stream, "b.arrow": write_file}
every_writer = pytest.mark.parametrize("file", WRITERS)


def pictures(images: list[bytes | None]):
    return pa.table(
        {
            "label": list(range(len(images))),
            "image": [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images)],
        }
    )


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return put(tmp_path / "plain", {f"{i}.png": data for i, data in enumerate(IMAGES)})


@every_writer
def test_rows_give_what_a_folder_of_their_images_gives(tmp_path: Path, plain: Path, file):
    path = WRITERS[file](tmp_path / file, pictures(IMAGES))
    source = opened(path)
    assert (source.kind, source.label, source.count) == (path.suffix[1:], file, 7)
    assert names(source) == [f"{file}[{i}]" for i in range(7)]
    assert content(source) == content(opened(plain))
    for options in ({"samples": 4, "seed": 3}, {"shard": Shard(2, 3)}):
        assert content(opened(path, **options)) == content(opened(plain, **options))
    ahead = [o.loaded.digest for o in source.outcomes(1, 6, threads=4)]
    assert ahead == [digest for digest, _ in content(source)][1:6]
    before = source.origin.listing()
    assert (source.origin.stamp(3), before) == ("", opened(path, samples=2).origin.listing())
    WRITERS[file](path, pictures(IMAGES[:3]))
    assert opened(path).origin.listing() != before


@pytest.mark.parametrize("write", [write_parquet, write_stream])
def test_a_folder_of_files(tmp_path: Path, plain: Path, write):
    ending = "parquet" if write is write_parquet else "arrow"
    root = tmp_path / "hub"
    parts = (IMAGES[:3], [], IMAGES[3:])
    for number, images in enumerate(parts):
        table = pictures(images) if images else pictures(IMAGES[:1]).slice(0, 0)
        write(root / "data" / f"train-{number:05d}-of-00003.{ending}", table)
    source = opened(root)
    assert source.label == "hub"
    assert content(source) == content(opened(plain))
    assert names(source)[3] == f"data/train-00002-of-00003.{ending}[0]"
    assert content(opened(root / "data" / f"train-*.{ending}")) == content(source)
    pattern = f"train-{{00000..00001}}-of-00003.{ending}"
    assert content(opened(root / "data" / pattern)) == content(source)[:3]
    with pytest.raises(DataError, match=r"no file in 'data' matches 'val-\*': check the pat"):
        opened(root / "data" / "val-*")
    write(root / "data" / f"test-00000-of-00001.{ending}", pictures(IMAGES))
    match = rf"several splits: name one, such as 'hub/data/test-\*\.{ending}' or 'hub/data/tra"
    with pytest.raises(DataError, match=match):
        opened(root)


@pytest.mark.parametrize(
    ("files", "place"),
    [
        (["default/train/0000.parquet", "default/test/0000.parquet"], "x/default/test' or"),
        (["train.parquet", "validation.parquet"], r"'x/train\.parquet' or 'x/validation\.pa"),
    ],
)
def test_splits_by_folder_and_by_name(tmp_path: Path, files, place):
    for file in files:
        write_parquet(tmp_path / "x" / file, pictures(IMAGES))
    with pytest.raises(DataError, match=rf"'x' holds several splits: .*{place}"):
        opened(tmp_path / "x")


@every_writer
def test_bad_rows(tmp_path: Path, file):
    images = [IMAGES[0], None, b"", b"hello", IMAGES[1]]
    table = pictures(images)
    path = WRITERS[file](tmp_path / file, table)
    source = opened(path, on_bad_sample="skip")
    assert names(source) == [f"{file}[0]", f"{file}[4]"]
    assert source.skipped == [f"{file}[{i}]" for i in (1, 2, 3)]
    with pytest.raises(DataError, match=r"\[1\]' holds no image bytes, at most the path of a"):
        list(opened(path))
    null = pa.table({"image": pa.array([None, None], table.schema.field("image").type)})
    WRITERS[file](path, null)
    with pytest.raises(DataError, match="holds no image bytes"):
        list(opened(path))


@pytest.mark.parametrize(
    "columns",
    [
        lambda images: {"image": images, "other": images},
        lambda images: {"img": images, "other": images},
        lambda images: {"picture": images, "label": [1] * len(images)},
        lambda images: {"image": pa.array(images, pa.large_binary())},
        lambda images: {"image": pa.array(images, pa.binary_view())},
        lambda images: {"image": pa.array([{"bytes": i} for i in images]), "x.y": images},
    ],
)
def test_image_columns(tmp_path: Path, plain: Path, columns: Callable[..., dict]):
    path = write_stream(tmp_path / "t.arrow", pa.table(columns(IMAGES)))
    assert content(opened(path)) == content(opened(plain))


TENSOR = pa.FixedShapeTensorArray.from_numpy_ndarray(rows(4, 3, 4, 6))
NESTED = pa.array(rows(4, 3, 4, 6).tolist(), pa.list_(pa.list_(pa.list_(pa.float32()))))
FIXED = pa.FixedSizeListArray.from_arrays(
    pa.FixedSizeListArray.from_arrays(
        pa.FixedSizeListArray.from_arrays(pa.array(rows(4, 3, 4, 6).ravel()), 6), 4
    ),
    3,
)


@every_writer
@pytest.mark.parametrize("column", [TENSOR, NESTED, FIXED], ids=["tensor", "nested", "fixed"])
@pytest.mark.parametrize("name", ["x", "pixel_values"])
def test_arrays_from_lists_and_tensors(tmp_path: Path, file, column, name):
    table = pa.table({"label": [1, 2, 3, 4], name: column})
    path = WRITERS[file](tmp_path / file, table)
    source = open_source(path, [IMAGE], preprocess=None)
    assert content(source) == content(opened(rows(4, 3, 4, 6)))


@every_writer
def test_one_column_per_input(tmp_path: Path, file):
    data = {
        "ids": rows(4, 5).astype("int64"),
        "mask": rows(4, 5) % 2 == 0,
        "t": np.ones(4, "float32"),
    }
    inputs = [IDS, MASK, TensorSpec("t", "float32", ("n",))]
    columns = {key: value.tolist() for key, value in data.items()}
    types = {"t": pa.float32()}
    table = pa.table(
        {key: pa.array(value, types.get(key)) for key, value in columns.items()}
        | {"image": IMAGES[:4]}
    )
    path = WRITERS[file](tmp_path / file, table)
    assert content(opened(path, *inputs)) == content(opened(data, *inputs))


@pytest.mark.parametrize(
    ("columns", "inputs", "match"),
    [
        (
            {"a": IMAGES, "b": IMAGES},
            [IMAGE],
            "columns a: binary, b: binary, and none of",
        ),
        ({"a": ["text"]}, [IMAGE], "a: string, and none of them clearly feeds"),
        ({"ids": [[1, 2, 3, 4, 5]]}, [IDS, MASK], "none of them clearly feeds"),
        ({"image": IMAGES}, [IDS, MASK], "holds images, which need preprocessing"),
        ({"a": [1.0], "b": [2.0]}, [IMAGE], "none of them clearly feeds"),
        ({"ids": [[1, 2], [3]]}, [IDS], r"takes shape \[5\] per sample, got \[2\]"),
        ({"ids": [[1, None, 3, 4, 5]]}, [IDS], "column 'ids' holds a missing value: fill it"),
        ({"ids": [None, [1, 2, 3, 4, 5]]}, [IDS], "column 'ids' holds a missing value"),
        ({"x": [[[1.0], [2.0, 3.0]]]}, [IMAGE], r"lists of different lengths \[1, 2\]: pad"),
        ({"x": [[[1.0], None]]}, [IMAGE], "column 'x' holds a missing value"),
    ],
)
def test_columns_that_do_not_fit(tmp_path: Path, columns, inputs, match):
    with pytest.raises(DataError, match=match):
        list(opened(write_parquet(tmp_path / "t.parquet", pa.table(columns)), *inputs))


def test_files_of_different_datasets(tmp_path: Path):
    write_parquet(tmp_path / "d" / "a.parquet", pa.table({"image": IMAGES}))
    write_parquet(tmp_path / "d" / "b.parquet", pa.table({"picture": IMAGES}))
    with pytest.raises(DataError, match=r"'b\.parquet' feeds the model by the columns \['pic"):
        opened(tmp_path / "d")


@every_writer
def test_damaged_and_empty_files(tmp_path: Path, file):
    path = WRITERS[file](tmp_path / file, pictures(IMAGES))
    good = path.read_bytes()
    for data in (b"", b"hello", good[:100], good[: len(good) // 2]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=rf"'{file}' cannot be read \(|holds no rows"):
            list(opened(path))
    WRITERS[file](path, pictures(IMAGES).slice(0, 0))
    with pytest.raises(DataError, match=rf"'{file}' holds no rows: give at least one"):
        opened(path)


@every_writer
@pytest.mark.parametrize("kind", ["images", "arrays"])
def test_damaged_bytes_give_samples_or_data_errors(tmp_path: Path, file, kind):
    table = pictures(IMAGES) if kind == "images" else pa.table({"x": NESTED})
    path = WRITERS[file](tmp_path / file, table)
    good, rng = path.read_bytes(), np.random.default_rng(0)
    outcomes = {True: 0, False: 0}
    for _ in range(150):
        data = bytearray(good)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            outcomes[len(list(opened(path, on_bad_sample="skip"))) > 0] += 1
        except DataError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 5


def test_offsets_that_point_elsewhere_are_an_error_and_no_crash(tmp_path: Path):
    path = write_stream(tmp_path / "t.arrow", pa.table({"image": IMAGES}), 100)
    data = bytearray(path.read_bytes())
    ends = np.cumsum([0, *map(len, IMAGES)]).astype("<i4").tobytes()
    place = data.index(ends) + 8
    data[place : place + 4] = (2**31 - 1).to_bytes(4, "little")
    path.write_bytes(data)
    source = opened(path, on_bad_sample="skip")
    assert len(names(source)) == 5
    assert source.skipped == ["t.arrow[1]", "t.arrow[2]"]


def test_compressed_arrow_files_are_refused(tmp_path: Path):
    table = pa.table({"x": rows(1000, 100).tolist()})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    zeros = pa.table({"x": np.zeros((2000, 1000)).tolist()})
    path = write_stream(tmp_path / "t.arrow", zeros, 1000, options=options)
    with pytest.raises(DataError, match="it is compressed, and would be unpacked into"):
        opened(path)
    write_stream(path, table)
    assert opened(path, TensorSpec("x", "float64", ("n", 100))).count == 1000


def test_giant_row_groups_are_refused(tmp_path: Path, monkeypatch):
    path = write_parquet(tmp_path / "t.parquet", pictures(IMAGES), 7)
    monkeypatch.setattr(table_formats, "_MOST_BYTES", 100)
    with pytest.raises(DataError, match=r"has a row group of \d+ bytes.*\(row_group_size"):
        opened(path)


@every_writer
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path, monkeypatch, file):
    """Blocks are read once, in turn, and dropped; a mapped file takes no memory of Arrow's."""
    monkeypatch.setattr(table_formats, "_RUN_BYTES", 400_000)
    is_parquet = file.endswith("parquet")
    form = table_formats.Parquet if is_parquet else table_formats.Arrow
    read, reads = form.block, []

    def counted(self, files, name, number, columns):
        reads.append(number)
        return read(self, files, name, number, columns)

    monkeypatch.setattr(form, "block", counted)
    image, spec = encoded(0, (180, 180)), TensorSpec("x", "float32", ("n", 3, "h", "w"))
    path = WRITERS[file](tmp_path / file, pa.table({"image": [image] * 200}), 10)
    before, most, mapped = pa.total_allocated_bytes(), 0, 0
    for outcome in opened(path, spec).outcomes(threads=2):
        most = max(most, pa.total_allocated_bytes() - before)
        if outcome.position % 10 == 0 and sys.platform == "linux":
            mapped = max(mapped, Path("/proc/self/maps").read_text().count(file))
    assert sorted(reads) == list(range(20))
    assert len(image) > 90_000
    assert most < (8e6 if is_parquet else 1e5) < 200 * len(image) / 2
    assert mapped <= 8, "of 20: those that the readers hold, and a few that are kept"


def saved(root: Path, tables: dict[str, list[bytes]]) -> Path:
    """A folder as save_to_disk writes it, with a cache of datasets beside the data."""
    for name, images in tables.items():
        write_stream(root / name, pictures(images))
    write_stream(root / "cache-0123.arrow", pictures(IMAGES))
    listed = [{"filename": name} for name in tables]
    (root / "state.json").write_text(json.dumps({"_data_files": listed}))
    (root / "dataset_info.json").write_text("{}")
    return root


def test_a_saved_dataset_is_read_as_its_description_says(tmp_path: Path, plain: Path):
    root = saved(tmp_path / "saved", {"z.arrow": IMAGES[:4], "a.arrow": IMAGES[4:]})
    assert content(opened(root)) == content(opened(plain))
    put(root, {"image.png": IMAGES[0]})
    assert opened(root).count == 7


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ("{", r"'saved/state\.json' cannot be read \("),
        ("[]", r"cannot be read \(no object\)"),
        ("{}", r"'saved/state\.json' is damaged: save the dataset again"),
        ('{"_data_files": [{"filename": 7}]}', "is damaged"),
        (
            '{"_data_files": [{"filename": "../b.arrow"}]}',
            r"names '\.\./b\.arrow', which",
        ),
        ('{"_data_files": [], "_indices_data_files": [1]}', "with a selection of its rows"),
    ],
)
def test_descriptions_that_cannot_be_used(tmp_path: Path, state, match):
    root = saved(tmp_path / "saved", {"a.arrow": IMAGES})
    write_stream(tmp_path / "b.arrow", pictures(IMAGES))
    (root / "state.json").write_text(state)
    with pytest.raises(DataError, match=match):
        opened(root)


def test_a_dict_of_splits_is_not_read_as_one(tmp_path: Path):
    root = tmp_path / "both"
    for split in ("train", "test"):
        saved(root / split, {"a.arrow": IMAGES})
    put(root, {"dataset_dict.json": b'{"splits": ["train", "test"]}'})
    with pytest.raises(DataError, match="'both' holds the splits train, test: .*'both/train'"):
        opened(root)
    assert opened(root / "test").count == 7


def test_datasets_of_hugging_face_are_read_alike(tmp_path: Path, plain: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        datasets = pytest.importorskip("datasets")
        datasets.disable_progress_bars()
        features = datasets.Features(
            {
                "image": datasets.Image(),
                "label": datasets.Value("int64"),
                "x": datasets.Array3D((3, 4, 6), "float32"),
                "v": datasets.List(datasets.Value("float32")),
            }
        )
        data = {
            "image": [str(path) for path in sorted(plain.iterdir())],
            "label": list(range(7)),
            "x": list(rows(7, 3, 4, 6)),
            "v": rows(7, 5).tolist(),
        }
        dataset = datasets.Dataset.from_dict(data, features=features)
        dataset.save_to_disk(tmp_path / "one", num_shards=3)
        chosen = dataset.select([5, 1, 3])
        chosen.save_to_disk(tmp_path / "chosen")
        embedded = datasets.load_from_disk(tmp_path / "one")  # to_parquet embeds no files
        embedded.to_parquet(tmp_path / "p.parquet")
        splits = datasets.DatasetDict({"train": dataset, "test": chosen})
        splits.save_to_disk(tmp_path / "two")
    image, vector = (
        TensorSpec("pixels", "float32", ("n", 3, 4, 6)),
        TensorSpec("v", "float32", ("n", 5)),
    )
    want = content(opened(plain, image))
    assert content(opened(tmp_path / "one", image)) == want
    assert content(opened(tmp_path / "p.parquet", image)) == want
    assert content(opened(tmp_path / "chosen", image)) == [want[5], want[1], want[3]]
    assert content(opened(tmp_path / "two" / "test", image)) == [want[5], want[1], want[3]]
    for path in (tmp_path / "one", tmp_path / "p.parquet"):
        assert content(opened(path)) == content(opened(rows(7, 3, 4, 6)))
        assert content(opened(path, vector)) == content(opened(rows(7, 5), vector))
    with pytest.raises(DataError, match="'two' holds the splits train, test"):
        opened(tmp_path / "two")


def test_without_pyarrow_the_pip_line_is_named(tmp_path: Path, monkeypatch):
    path = write_parquet(tmp_path / "t.parquet", pictures(IMAGES))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r'pip install "lipcompile\[arrow\]"'):
        opened(path)
