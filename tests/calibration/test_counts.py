"""Counts in tables: they add up, survive the file, and damage is one error."""

from __future__ import annotations

import copy
import itertools
import json
import math
from dataclasses import replace

import pytest

from lipcompile.calibration.counts import SiteCounts
from lipcompile.calibration.merge import merge_tables
from lipcompile.calibration.table import CalibrationTable, DataRecord, SiteRange
from lipcompile.errors import TableError

SITES = {"conv1_in": 1.5, "relu_2": 0.0, "é/層": 65504.0}


def example(**changes):
    table = CalibrationTable(
        model_digest="sha256:" + "ab" * 32,
        model="net.onnx",
        sites=tuple(SiteRange(name, "float32", absmax) for name, absmax in SITES.items()),
        data=DataRecord("npy", "data", 20, "1f" * 32),
        preprocess=None,
        input_range={"x": (-2.0, 2.5)},
        runtime="onnxruntime 1.31.1, CPUExecutionProvider",
    )
    return replace(table, **changes)


def other_data(**changes):
    return replace(DataRecord("npy", "others", 5, "2e" * 32), **changes)


COUNTS = (
    SiteCounts("conv1_in", 1, 1.5 / 128, 40, (40, 0, 7)),
    SiteCounts("conv1_in", 1, 1.5 / 64, 40, (40, 3, 9)),
    SiteCounts("é/層", -1, 65504.0 / 64, 20, (20, 20)),
)
COUNTED = example(counts=COUNTS)


def shard(seen=2, **changes):
    rows = tuple(
        replace(row, seen=seen, suppressed=(1,) * len(row.suppressed)) for row in COUNTS
    )
    return example(data=other_data(**changes), counts=rows)


def test_counts_survive_json():
    again = CalibrationTable.from_json(json.loads(json.dumps(COUNTED.to_json())))
    assert again == COUNTED
    assert again.digest == COUNTED.digest != example().digest
    assert list(COUNTED.to_json())[-1] == "counts"
    assert "counts" not in example().to_json()


def test_rates_are_shares_of_what_was_seen():
    assert COUNTS[0].rates == (1.0, 0.0, 7 / 40)


def test_counts_are_looked_up_by_site_axis_and_threshold():
    assert COUNTED.counts_at("conv1_in", 1, 1.5 / 64) == COUNTS[1]
    message = (
        r"counts for c_r = {} at site '{}' were not taken \(the calibration table of "
        r"'net\.onnx' has {}\): calibrate with --count-cr, or pass --calib"
    )
    held = r"counts for c_r = 2\^-7, 2\^-6"
    for place, c_r, has in [
        (("conv1_in", 1, 1.5 / 256), r"2\^-8", held),
        (("conv1_in", 0, 1.5 / 64), r"2\^-6", held),
        (("é/層", -1, 655.04), r"0\.01", held),
        (("relu_2", 1, 0.5), "inf", held),
    ]:
        with pytest.raises(TableError, match=message.format(c_r, place[0], has)):
            COUNTED.counts_at(*place)
    with pytest.raises(TableError, match=message.format(r"2\^-6", "conv1_in", "no counts")):
        example().counts_at("conv1_in", 1, 1.5 / 64)
    with pytest.raises(TableError, match="has no site 'relu_3'"):
        COUNTED.counts_at("relu_3", 1, 1.0)


def test_the_text_names_each_c_r_once():
    assert "suppressed elements counted for c_r = 2^-7, 2^-6" in str(COUNTED).splitlines()
    assert "suppressed" not in str(example())


def test_counts_at_equal_thresholds_add_up_in_any_order():
    parts = [COUNTED, shard(), shard(3, digest="3d" * 32)]
    whole = merge_tables(parts)
    assert [row.seen for row in whole.counts] == [45, 45, 25]
    assert whole.counts[1].suppressed == (42, 5, 11)
    for order in itertools.permutations(parts):
        assert merge_tables(order).digest == whole.digest
    mirrored = replace(parts[1], counts=parts[1].counts[::-1])
    assert merge_tables([mirrored, parts[0], parts[2]]).digest == whole.digest


@pytest.mark.parametrize(
    "counts",
    [(), COUNTS[:2], (*COUNTS[:2], replace(COUNTS[2], c=1.0))],
    ids=["none", "fewer", "another-c"],
)
def test_counts_at_other_thresholds_do_not_merge(counts):
    other = example(data=other_data(), counts=counts)
    message = (
        r"counted at different thresholds \(\d and \d counts\): a threshold is c_r times the "
        r"maximum .* 'lipcompile calibrate --table MERGED --count-cr \.\.\.' on each shard"
    )
    for pair in ([COUNTED, other], [other, COUNTED]):
        with pytest.raises(TableError, match=message):
            merge_tables(pair)


def test_counts_of_another_number_of_features_do_not_merge():
    short = replace(COUNTS[0], suppressed=(1, 2))
    other = example(data=other_data(), counts=(short, *COUNTS[1:]))
    with pytest.raises(TableError, match=r"count 3 and 2 features of site 'conv1_in'"):
        merge_tables([COUNTED, other])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"c": -1.0}, "at threshold -1.0"),
        ({"c": math.nan}, "at threshold nan"),
        ({"c": math.inf}, "at threshold inf"),
        ({"seen": 0}, "0 elements per feature at .*"),
        ({"seen": -4}, "-4 elements per feature at .*"),
        ({"suppressed": ()}, "no feature"),
        ({"suppressed": (3, 41)}, "41 of 40 elements suppressed"),
        ({"suppressed": (-1, 40)}, "-1 of 40 elements suppressed"),
    ],
)
def test_counts_that_are_none(changes, problem):
    message = f"counts of site 'conv1_in' tell of .*{problem}, which is no count: calibrate"
    with pytest.raises(TableError, match=message):
        replace(COUNTS[0], **changes)
    damaged = COUNTED.to_json()
    row = damaged["counts"][0] | {
        k: list(v) if k == "suppressed" else v for k, v in changes.items()
    }
    damaged["counts"][0] = row | ({"c": repr(row["c"])} if not math.isfinite(row["c"]) else {})
    with pytest.raises(TableError, match=message):
        CalibrationTable.from_json(damaged)


OTHERS = [None, True, -7.5, "text", [], ["a"], {}, {"a": 1}, [[1, 2, 3]]]


@pytest.mark.parametrize("key", [None, "tensor", "axis", "c", "seen", "suppressed"])
def test_counts_that_hold_something_else(key):
    for other in OTHERS:
        damaged = copy.deepcopy(COUNTED.to_json())
        if key is None:
            damaged["counts"] = other
        else:
            damaged["counts"][1][key] = other
        if key is None and other == []:
            assert CalibrationTable.from_json(damaged) == example()
            continue
        with pytest.raises(TableError, match="calibrate again"):
            CalibrationTable.from_json(damaged)


@pytest.mark.parametrize("other", OTHERS, ids=repr)
def test_a_count_that_is_none(other):
    damaged = copy.deepcopy(COUNTED.to_json())
    damaged["counts"][0]["suppressed"][2] = other
    with pytest.raises(TableError, match="calibrate again"):
        CalibrationTable.from_json(damaged)


@pytest.mark.parametrize("key", ["tensor", "axis", "c", "seen", "suppressed"])
def test_counts_that_lack_a_key(key):
    damaged = copy.deepcopy(COUNTED.to_json())
    del damaged["counts"][1][key]
    with pytest.raises(TableError, match=f"damaged .KeyError: '{key}'"):
        CalibrationTable.from_json(damaged)


def test_counts_of_no_site_or_of_one_twice():
    damaged = COUNTED.to_json()
    damaged["counts"].append(damaged["counts"][0])
    with pytest.raises(TableError, match="a site is counted twice at one threshold"):
        CalibrationTable.from_json(damaged)
    damaged["counts"][-1] = damaged["counts"][0] | {"tensor": "other"}
    with pytest.raises(TableError, match="'other' is counted and is no site"):
        CalibrationTable.from_json(damaged)
