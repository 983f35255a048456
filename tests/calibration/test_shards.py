"""Shards divide the samples, and merge to the table of the whole; none enters twice."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lipcompile
from lipcompile import CalibrationTable, ScanOptions, load_table, merge_tables
from lipcompile.calibration.shards import ShardRecord
from lipcompile.calibration.sources.picking import Pick, Shard
from lipcompile.cli.main import run
from lipcompile.demo import CALIBRATION, MODEL
from lipcompile.errors import DataError, OptionError, TableError

ARRAY = np.random.default_rng(1).uniform(size=(11, 1, 28, 28)).astype("float32")


def table(data: object = ARRAY, **options: Any) -> CalibrationTable:
    return lipcompile.calibrate(MODEL, data, scan=ScanOptions(**options))


@pytest.fixture(scope="module")
def thirds() -> list[CalibrationTable]:
    return [table(shard=f"{i}/3") for i in (1, 2, 3)]


def test_shards_divide_the_samples() -> None:
    parts = [Pick(shard=Shard(i, 4))(11) for i in range(1, 5)]
    assert sorted(i for part in parts for i in part) == list(range(11))
    drawn = Pick(5, seed=3)(11)
    parts = [Pick(5, 3, Shard(i, 2))(11) for i in (1, 2)]
    assert sorted(i for part in parts for i in part) == list(drawn)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_all_shards_merge_to_the_whole(
    order: tuple[int, ...], thirds: list[CalibrationTable]
) -> None:
    assert merge_tables(thirds[i] for i in order) == table()


def test_shards_of_a_stream() -> None:
    parts = [table(iter(ARRAY), shard=f"{i}/2") for i in (1, 2)]
    assert [part.data.samples for part in parts] == [6, 5]
    assert merge_tables(parts).sites == table().sites
    parts = [table(iter(ARRAY), samples=4, shard=f"{i}/2") for i in (1, 2)]
    assert merge_tables(parts) == table(iter(ARRAY), samples=4)


def test_some_shards_say_which(thirds: list[CalibrationTable]) -> None:
    assert "these are shard 2 of 3 alone: merge the others" in thirds[1].summary()
    some = merge_tables([thirds[2], thirds[0]])
    assert "these are shards 1, 3 of 3 alone: merge the others" in some.summary()
    assert CalibrationTable.from_json(some.to_json()) == some
    assert merge_tables([some, thirds[1]]) == table()


def test_the_digest_of_a_table_does_not_know_how_it_was_read(
    thirds: list[CalibrationTable],
) -> None:
    assert merge_tables(thirds).digest == table().digest
    assert thirds[0].digest == table(ARRAY[::3]).digest


def test_a_shard_that_is_named_twice(thirds: list[CalibrationTable]) -> None:
    some, others = merge_tables(thirds[:2]), merge_tables(thirds[1:])
    with pytest.raises(TableError, match=r"^shard 2 of 3 is in two of the tables"):
        merge_tables([some, others])


@pytest.mark.parametrize(
    "other",
    [
        {"shard": "2/4"},
        {"shard": "2/3", "samples": 10},
        {"data": ARRAY[:10], "shard": "2/3", "samples": 9},
    ],
    ids=["number", "subset", "seed"],
)
def test_shards_of_another_division(
    other: dict[str, Any], thirds: list[CalibrationTable]
) -> None:
    with pytest.raises(TableError, match="are of different data, another --samples"):
        merge_tables([thirds[0], table(**other)])


def test_a_shard_and_a_table_that_is_none(thirds: list[CalibrationTable]) -> None:
    with pytest.raises(TableError, match=r"is no shard, and another table is shard 1 of 3"):
        merge_tables([table(ARRAY[:2]), thirds[0]])


def test_tables_that_share_samples() -> None:
    left, right = table(ARRAY[:7]), table(ARRAY[5:])
    with pytest.raises(TableError, match=r"share samples, at least 2: name each sample once"):
        merge_tables([left, right])
    both = merge_tables([left, right], allow_overlap=True)
    assert both.sites == table().sites
    assert both.data.samples == 13
    assert merge_tables([table(ARRAY[:7]), table(ARRAY[7:])]) == table()


def test_an_empty_shard() -> None:
    with pytest.raises(DataError, match="shard 12/12 of 11 samples is empty: make at most 11"):
        table(shard="12/12")


@pytest.mark.parametrize(
    "text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "a/b", "1/3/5", "1/1e3"]
)
def test_texts_that_are_no_shard(text: str) -> None:
    with pytest.raises(OptionError, match="shard"):
        ScanOptions(shard=text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"division": "d", "count": 2, "held": [3]},
        {"division": "d", "count": 2, "held": []},
        {"division": "d", "count": 2, "held": [2, 1]},
        {"division": "d", "count": "2", "held": [1]},
        {"division": 7, "count": 2, "held": [1]},
        {"division": "d", "held": [1]},
        [],
    ],
)
def test_a_damaged_record(wrong: Any, thirds: list[CalibrationTable]) -> None:
    content = thirds[0].to_json()
    content["data"]["shards"] = wrong
    with pytest.raises(TableError, match="damaged"):
        CalibrationTable.from_json(content)
    assert ShardRecord.from_json(None) is None


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["calibrate", str(MODEL), "--calib", str(CALIBRATION), "-q"]
    parts = [str(tmp_path / f"{i}.json") for i in (1, 2)]
    for index, path in enumerate(parts):
        assert run([*command, "--shard", f"{index + 1}/2", "-o", path]) == 0
    assert run([*command, "-o", str(tmp_path / "whole.json")]) == 0
    assert run(["merge", *parts, "-o", str(tmp_path / "merged.json"), "-q"]) == 0
    whole = (tmp_path / "whole.json").read_bytes()
    assert (tmp_path / "merged.json").read_bytes() == whole
    assert run(["merge", parts[0], str(tmp_path / "whole.json"), "-o", "no.json"]) == 2
    assert "is no shard" in capsys.readouterr().err
    some = str(tmp_path / "some.json")
    assert run([*command, "--samples", "100", "-o", some]) == 0
    overlapping = ["merge", some, str(tmp_path / "whole.json"), "-o", str(tmp_path / "o.json")]
    assert run(overlapping) == 2
    assert "pass --allow-overlap" in capsys.readouterr().err
    assert run([*overlapping, "--allow-overlap", "-q"]) == 0
    assert load_table(tmp_path / "o.json").sites == load_table(tmp_path / "whole.json").sites


def test_shards_of_an_archive_with_a_transform(tmp_path: Path) -> None:
    """--shard and image flags reach images wherever they lie."""
    paths = sorted(CALIBRATION.glob("*.png"))[:20]
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for path in paths:
            archive.add(path, path.name)
    (tmp_path / "list.txt").write_text("\n".join(map(str, paths)))
    flags: dict[str, Any] = {"image_flags": {"mean": (0.5,), "std": (0.25,)}}
    whole = table(tmp_path / "list.txt", **flags)
    parts = [table(tmp_path / "shard.tar", shard=f"{i}/2", **flags) for i in (1, 2)]
    assert merge_tables(parts).digest == whole.digest
    assert whole.digest != table(tmp_path / "list.txt").digest
