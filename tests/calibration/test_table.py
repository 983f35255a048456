"""Tables: a commutative monoid, one JSON file, and one error for whatever is wrong with it."""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipcompile.calibration.merge import merge_tables
from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.table import (
    CalibrationTable,
    DataRecord,
    SiteRange,
    load_table,
)
from lipcompile.calibration.tally import add_digests, merge_ranges
from lipcompile.errors import TableError

MODEL = "sha256:" + "ab" * 32
SITES = ("conv1_in", "relu_2", "é/層")
# Sources are joined with " + ", so a label of only that would not be told apart.
text = st.text(st.characters(codec="utf-8", exclude_characters="+"), max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
maxima = st.floats(0, allow_nan=False, allow_infinity=False)
hexes = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
files = st.lists(text, max_size=3, unique=True).map(sorted).map(tuple)
records = st.builds(DataRecord, text, text, st.integers(0, 10**12), hexes, files, files)
bounds = st.floats() | st.sampled_from([0.0, -0.0, math.nan])
ranges = st.dictionaries(st.sampled_from("xyé"), st.tuples(bounds, bounds), max_size=3)


def sites(values):
    return tuple(SiteRange(n, "float32", v) for n, v in zip(SITES, values, strict=True))


tables = st.builds(
    CalibrationTable,
    model_digest=st.just(MODEL),
    model=text,
    sites=st.tuples(maxima, maxima, maxima).map(sites),
    data=records,
    preprocess=st.just(Preprocess().to_json()),
    input_range=ranges,
    runtime=text,
    complete=st.booleans(),
)


def example(**changes):
    table = CalibrationTable(
        model_digest=MODEL,
        model="net.onnx",
        sites=sites([1.5, 0.0, 65504.0]),
        data=DataRecord("images", "photos", 20, "1f" * 32, ("bad.png",), ()),
        preprocess=Preprocess().to_json(),
        input_range={"x": (-2.0, 2.5)},
        runtime="onnxruntime 1.31.1, CPUExecutionProvider",
    )
    return replace(table, **changes)


def other_data(**changes):
    return replace(DataRecord("images", "others", 5, "2e" * 32), **changes)


def text_of(table):
    return json.dumps(table.to_json(), allow_nan=False)


# One file


@settings(deadline=None)
@given(tables)
def test_a_table_survives_json(table):
    again = CalibrationTable.from_json(json.loads(text_of(table)))
    assert text_of(again) == text_of(table) and again.digest == table.digest
    nan = any(math.isnan(v) for bounds in table.input_range.values() for v in bounds)
    assert nan or again == table


@settings(deadline=None, max_examples=20)
@given(tables)
def test_a_table_survives_a_file(tmp_path_factory, table):
    path = tmp_path_factory.getbasetemp() / "table.json"
    table.save(path)
    assert load_table(path).digest == table.digest
    assert path.read_bytes().endswith(b"}\n")


def test_the_table_without_images_survives_too(tmp_path):
    example(preprocess=None).save(tmp_path / "t.json")
    assert load_table(tmp_path / "t.json") == example(preprocess=None)


def test_infinite_inputs_are_stored_as_json(tmp_path):
    """An attention mask feeds -inf, and JSON has no such number."""
    table = example(input_range={"mask": (-math.inf, 0.0), "empty": (math.nan, math.inf)})
    table.save(tmp_path / "t.json")
    stored = json.loads(
        (tmp_path / "t.json").read_bytes(), parse_constant=lambda name: pytest.fail(name)
    )
    assert stored["input_range"] == {"mask": ["-inf", 0.0], "empty": ["nan", "inf"]}
    assert load_table(tmp_path / "t.json").input_range["mask"] == (-math.inf, 0.0)


def test_sites_are_looked_up_by_tensor():
    assert example()["relu_2"] == 0.0 and example()["é/層"] == 65504.0
    with pytest.raises(TableError, match=r"'net\.onnx' has no site 'relu_3': calibrate again"):
        example()["relu_3"]


# The digest


def test_the_digest_is_stable():
    """Provenance that an older version wrote must keep matching."""
    assert example().digest == (
        "sha256:09f39fe9bd22a6fa265bcd3afc57998cdbfcc2de19e7c56c5f4b7de8037f7337"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"model_digest": "sha256:" + "ac" * 32},
        {"sites": sites([1.5, 0.0, 65503.996])},
        {"sites": sites([1.5, 0.0, 65504.0])[:2]},
        {"data": other_data()},
        {"preprocess": None},
        {"preprocess": Preprocess(rescale=0.5).to_json()},
        {"input_range": {"x": (-2.0, 2.4)}},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_the_digest_covers_what_decides_the_thresholds(changes):
    assert example(**changes).digest != example().digest


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "other.onnx"},
        {"runtime": "onnxruntime 1.31.1, CUDAExecutionProvider"},
        {"complete": False},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_the_digest_covers_no_names(changes):
    assert example(**changes).digest == example().digest


def test_the_digest_does_not_depend_on_the_order_of_inputs_or_the_sign_of_zero():
    one = example(input_range={"a": (0.0, 1.0), "b": (2.0, 3.0)})
    two = example(input_range={"b": (2.0, 3.0), "a": (-0.0, 1.0)})
    assert one.digest == two.digest


# Merging


@settings(deadline=None)
@given(tables, tables)
def test_merging_is_commutative(left, right):
    if left.data.digest == right.data.digest:
        return
    assert merge_tables([left, right]).digest == merge_tables([right, left]).digest


@settings(deadline=None)
@given(tables, tables, tables)
def test_merging_is_associative(a, b, c):
    try:
        ab, bc = merge_tables([a, b]), merge_tables([b, c])
        left, right = merge_tables([ab, c]), merge_tables([a, bc])
    except TableError as error:
        assert "on the same" in str(error)
        return
    assert left.digest == right.digest


def test_merging_takes_the_maximum_of_each_site():
    left = example(sites=sites([1.0, 5.0, 2.0]))
    right = example(
        sites=sites([3.0, 4.0, 2.0]),
        data=other_data(unreadable=("a.png", "bad.png"), nonfinite=("n",)),
        input_range={"x": (-3.0, 1.0), "z": (0.0, 1.0)},
        complete=False,
    )
    merged = merge_tables(iter([left, right]))
    assert [site.absmax for site in merged.sites] == [3.0, 5.0, 2.0]
    assert merged.data == DataRecord(
        "images", "others + photos", 25, "4d" * 32, ("a.png", "bad.png"), ("n",)
    )
    assert merged.input_range == {"x": (-3.0, 2.5), "z": (0.0, 1.0)}
    assert (merged.model, merged.complete) == ("net.onnx", False)
    assert merge_tables([left]) == left


def test_merging_in_any_order_and_grouping_gives_one_table():
    shards = [
        example(
            sites=sites([i, 9 - i, i % 3]),
            data=DataRecord("images", f"s{i}", i, f"{9**i:064x}"),
            model=f"net{i % 2}.onnx",
            input_range={"x": [(-0.0, 1), (0.0, 2), (math.nan, math.nan)][i % 3]},
        )
        for i in range(5)
    ]
    digests = {merge_tables(order).digest for order in itertools.permutations(shards)}
    pairs = [merge_tables(shards[:2]), merge_tables(shards[2:])]
    assert digests == {merge_tables(pairs).digest}


def test_the_same_samples_are_not_merged_twice():
    with pytest.raises(
        TableError, match=r"same 20 samples \('photos' and 'copy'\): name each"
    ):
        merge_tables([example(), example(data=replace(example().data, label="copy"))])
    for order in itertools.permutations([example(), example(), example(data=other_data())]):
        with pytest.raises(TableError, match=r"on the same 20 samples"):
            merge_tables(order)


def test_nothing_is_not_merged():
    with pytest.raises(TableError, match="there is no table to merge"):
        merge_tables([])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_digest": "sha256:" + "cd" * 32, "model": "b.onnx"},
            r"on another model: 'b\.onnx' \(sha256:cdcd.*\), and 'net\.onnx' is sha256:ab",
        ),
        ({"preprocess": None}, r"different preprocessing .* calibrate again with one"),
        ({"preprocess": Preprocess(rescale=1).to_json()}, "different preprocessing"),
        (
            {"sites": sites([1, 2, 3])[:2]},
            r"different sites \(3 and 2\): calibrate again with",
        ),
        ({"sites": sites([1, 2, 3])[::-1]}, "different sites"),
        (
            {"sites": tuple(replace(s, dtype="float16") for s in sites([1, 2, 3]))},
            "different sites",
        ),
    ],
    ids=["model", "no-preprocess", "preprocess", "fewer-sites", "order", "dtype"],
)
def test_tables_that_do_not_belong_together(changes, message):
    with pytest.raises(TableError, match=message):
        merge_tables([example(), example(data=other_data(), **changes)])
    merge_tables([example(), example(data=other_data())])  # and these do


def test_another_model_is_refused():
    example().check_model(MODEL, "net.onnx")
    with pytest.raises(
        TableError, match=r"measured on another model: 'net\.onnx'.*calibrate 'b\.onnx', or"
    ):
        example().check_model("sha256:" + "00" * 32, "b.onnx")


def test_digests_add_up_whatever_their_order():
    parts = [bytes([i]) * 32 for i in (255, 1, 254)]
    assert add_digests(parts) == add_digests(reversed(parts))
    assert add_digests([add_digests(parts[:2]), parts[2].hex()]) == add_digests(parts)
    assert add_digests(parts) != add_digests(parts[:2])
    assert add_digests([]) == "0" * 64 and len(add_digests([b"\xff" * 32] * 3)) == 64


@given(ranges, ranges)
def test_ranges_hold_every_value_that_either_holds(left, right):
    merged = merge_ranges(left, right)
    assert merged.keys() == left.keys() | right.keys()
    for part in (left, right):
        for name, (low, high) in part.items():
            assert math.isnan(low) or merged[name][0] <= low
            assert math.isnan(high) or merged[name][1] >= high


# Damage


@pytest.mark.parametrize("absmax", [math.nan, math.inf, -math.inf, -1.0])
def test_a_maximum_is_finite_and_not_negative(absmax):
    with pytest.raises(TableError, match=f"site 'x' has absmax {absmax}, which is no maximum"):
        SiteRange("x", "float32", absmax)


@pytest.mark.parametrize("absmax", ["NaN", "Infinity", "-Infinity", "-1", '"nan"', "1e999"])
def test_a_file_with_such_a_maximum(absmax, tmp_path):
    content = text_of(example()).replace("65504.0", absmax)
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(TableError, match="site 'é/層' has absmax"):
        load_table(tmp_path / "t.json")


def places(content, prefix=()):
    """Every key and index of nested JSON, but for the inside of the preprocessing."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*prefix, key)
        if isinstance(value, (dict, list)) and key != "preprocess":
            yield from places(value, (*prefix, key))


CONTENT = example().to_json()
PLACES = list(places(CONTENT))
OTHERS = [None, True, 3, -7.5, "text", [], ["a"], {}, {"a": 1}, [[1, 2, 3]]]


def at(content, place):
    for key in place[:-1]:
        content = content[key]
    return content, place[-1]


def kind(value):
    return "number" if type(value) in (int, float) else type(value).__name__


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_key_that_holds_something_else(place):
    parent, key = at(CONTENT, place)
    for other in OTHERS:
        whole = place == ("data", "samples") and isinstance(other, float)
        if kind(other) == kind(parent[key]) and not whole:
            continue
        if place == ("preprocess",) and other is None:
            continue  # data that are no images
        damaged = copy.deepcopy(CONTENT)
        inner, _ = at(damaged, place)
        inner[key] = other
        with pytest.raises(TableError, match="calibra"):
            CalibrationTable.from_json(damaged)


@pytest.mark.parametrize(
    "place", [p for p in PLACES if isinstance(p[-1], str)], ids=lambda p: ".".join(p[:3:2])
)
def test_a_key_that_is_missing(place):
    damaged = copy.deepcopy(CONTENT)
    parent, key = at(damaged, place)
    del parent[key]
    if place == ("input_range", "x"):
        return  # a name, not a key of the format
    if place == ("data", "sketch"):  # tables before shards had none
        assert CalibrationTable.from_json(damaged).data.sketch == ()
        return
    with pytest.raises(TableError, match=f"{key}|no calibration table"):
        CalibrationTable.from_json(damaged)


def test_every_key_of_the_preprocessing_is_needed():
    for key in CONTENT["preprocess"]:
        damaged = copy.deepcopy(CONTENT)
        del damaged["preprocess"][key]
        with pytest.raises(TableError, match="damaged .*stored preprocessing has keys"):
            CalibrationTable.from_json(damaged)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damage_of_any_kind_is_a_table_error_or_harmless(data):
    damaged = copy.deepcopy(CONTENT)
    damaged["preprocess"] = copy.deepcopy(CONTENT["preprocess"])
    all_places = PLACES + [("preprocess", key) for key in damaged["preprocess"]]
    for place in data.draw(st.lists(st.sampled_from(all_places), min_size=1, max_size=3)):
        try:
            parent, key = at(damaged, place)
            parent[key] = data.draw(json_values)
        except (TypeError, KeyError, IndexError):
            pass  # an earlier damage removed this place
    try:
        table = CalibrationTable.from_json(damaged)
    except TableError as error:
        assert len(str(error)) < 1000
        return
    assert CalibrationTable.from_json(json.loads(text_of(table))).digest == table.digest
    assert str(table)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"\x89PNG\r\n\x1a\n", "is not JSON"),
        (b"tensor absmax\nrelu 3\n", "is not JSON"),
        (text_of(example()).encode()[:200], "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a":' * 100_000, "is not JSON"),
        (b"9" * 10_000, "is not JSON"),
        (b"[]", "no calibration table: format missing, expected 'lipcompile.calibration/1'"),
        (b"null", "format missing"),
        (b'{"format": "x"}', "no calibration table: format 'x', expected"),
        (b'{"format": "' + b"x" * 10_000 + b'"}', "format 'x{80}'"),
        (b'{"format": ' + b"[" * 200 + b"]" * 200 + b"}", "format missing"),
        (b'{"format": "lipcompile.calibration/1"}', r"is damaged \(KeyError: '\w+'\)"),
    ],
    ids=range(13),
)
def test_a_file_that_is_no_table(content, message, tmp_path):
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(TableError, match=message) as caught:
        load_table(tmp_path / "t.json")
    assert len(str(caught.value)) < 1000


def test_nesting_that_json_still_reads():
    deep = 1
    for _ in range(900):
        deep = [deep]
    for key in ("preprocess", "sites", "input_range", "runtime"):
        with pytest.raises(TableError, match="calibrate again"):
            CalibrationTable.from_json(CONTENT | {key: deep})
    values = CONTENT["preprocess"] | {"layout": deep}
    with pytest.raises(TableError, match="calibrate again"):
        CalibrationTable.from_json(CONTENT | {"preprocess": values})


def test_a_huge_file_is_not_read(tmp_path):
    (tmp_path / "t.json").touch()
    os.truncate(tmp_path / "t.json", (256 << 20) + 1)  # sparse
    with pytest.raises(TableError, match=r"t\.json' is too large for a calibration table"):
        load_table(tmp_path / "t.json")


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(
        TableError, match=r"'.*t\.json' cannot be read \(No such file or direc"
    ):
        load_table(tmp_path / "t.json")
    with pytest.raises(TableError, match=r"cannot be read \(Is a directory\): check the path"):
        load_table(tmp_path)


def test_other_encodings_of_json_are_read(tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "t.json").write_text(
            json.dumps(CONTENT, ensure_ascii=False), encoding=encoding
        )
        assert load_table(tmp_path / "t.json") == example()
