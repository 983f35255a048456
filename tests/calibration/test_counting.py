"""Counting is exact under any batching, and belongs to the table whose maxima it uses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from PIL import Image

import lipcompile
from lipcompile import CalibrationTable, RuntimeOptions, ScanOptions, Selector, model_io
from lipcompile.calibration.counting import prepare_counting
from lipcompile.calibration.counts import SiteCounts
from lipcompile.calibration.merge import merge_tables
from lipcompile.calibration.table import load_table
from lipcompile.errors import (
    DataError,
    Interrupted,
    NonFiniteError,
    OptionError,
    OutputError,
    TableError,
)
from lipcompile.forged.hard import Hard
from lipcompile.sites import find_sites
from tests.counted_layers import session, suppressed

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 8, 8] x) => (float[N, 5] y)
{
    c0 = Conv <pads = [1, 1, 1, 1]> (x, w0)
    r0 = Relu (c0)
    c1 = Conv <pads = [1, 1, 1, 1]> (r0, w1)
    g = GlobalAveragePool (c1)
    f = Flatten (g)
    m = MatMul (f, w2)
    t = Tanh (m)
    y = Gemm (t, w3)
}
"""
SHAPES = {"w0": (16, 3, 3, 3), "w1": (6, 16, 3, 3), "w2": (6, 11), "w3": (11, 5)}
AXES = {"r0": 1, "f": -1, "t": 1}
C_RS = (2**-6, 2**-3, 0.3)
DATA = np.random.default_rng(4).normal(size=(11, 3, 8, 8)).astype("float32")
ALL = Selector("all")


def network(batch: int | None = None) -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(3)
    for name, shape in SHAPES.items():
        weight = rng.normal(size=shape).astype("float32")
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    if batch is not None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
    return model


MODELS = {batch: network(batch) for batch in (None, 1, 4)}


def activations(data: np.ndarray) -> dict[str, np.ndarray]:
    model = network()
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in AXES)
    return dict(zip(AXES, session(model).run(list(AXES), {"x": data}), strict=True))


def by_numpy(table: CalibrationTable, data: np.ndarray) -> tuple[SiteCounts, ...]:
    rows = []
    for tensor, h in activations(data).items():
        for c_r in C_RS:
            c = Hard().threshold(c_r * table[tensor], "float32")
            seen, below = suppressed(h, AXES[tensor], c)
            rows.append(SiteCounts(tensor, AXES[tensor], c, seen, tuple(below)))
    return tuple(sorted(rows, key=lambda row: row.key))


def calibrated(data: Any, model: Any = None, **options: Any) -> CalibrationTable:
    options = {"selector": ALL, "count_cr": C_RS} | options
    return lipcompile.calibrate(MODELS[None] if model is None else model, data, **options)


WHOLE = calibrated(DATA)


def counted(data: Any, table: CalibrationTable = WHOLE, **scan: Any) -> tuple[SiteCounts, ...]:
    loaded = model_io.load(MODELS[None])
    sites = find_sites(loaded.graph_ir, ALL).sites
    options = ScanOptions(**scan)
    counting = prepare_counting(loaded, sites, table, C_RS, data, options, RuntimeOptions())
    counting.run()
    return counting.counts


# Exact


def test_the_example_counts_something_of_everything() -> None:
    """Counts of 0 or of all would hide mistakes."""
    rates = [rate for row in WHOLE.counts for rate in row.rates]
    assert len(WHOLE.counts) == len(AXES) * len(C_RS)
    assert sum(0 < rate < 1 for rate in rates) > len(rates) / 2


@given(
    batch_size=st.integers(1, 13),
    count=st.integers(1, 11),
    fixed=st.sampled_from([None, 1, 4]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_batching_gives_the_counts_of_numpy(
    batch_size: int, count: int, fixed: int | None, seed: int
) -> None:
    data = DATA[np.random.default_rng(seed).permutation(len(DATA))[:count]]
    table = calibrated(data, MODELS[fixed], scan=ScanOptions(batch_size=batch_size))
    assert table.counts == by_numpy(table, data)
    assert {row.seen for row in table.counts} == {count, count * 64}


@given(cuts=st.sets(st.integers(1, 10), max_size=3), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_sharding_gives_the_table_of_the_whole(cuts: set[int], seed: int) -> None:
    """Merge the maxima first, count each shard against them, merge those."""
    shards = np.split(DATA, sorted(cuts))
    maxima = merge_tables([calibrated(shard, count_cr=()) for shard in shards])
    parts = [calibrated(shard, table=maxima) for shard in shards]
    order = np.random.default_rng(seed).permutation(len(parts))
    assert merge_tables([parts[i] for i in order]) == WHOLE


@pytest.mark.parametrize("fixed", [4])
def test_planted_padding_would_be_counted(fixed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted failure: with padded rows in the sums, eleven samples count as twelve."""
    monkeypatch.setattr("lipcompile.calibration.batches.Batcher.padding", lambda *_: 0)
    monkeypatch.setattr(
        "lipcompile.calibration.batches.Batcher.feeds",
        lambda self, batch: {
            "x": np.stack([s.feeds["x"] for s in [*batch, *[batch[-1]] * 3][:fixed]])
        },
    )
    table = calibrated(DATA, MODELS[fixed])
    assert table.counts != by_numpy(table, DATA)
    assert {row.seen for row in table.counts} == {12, 12 * 64}


def test_a_model_that_mixes_the_rows_of_a_padded_batch_is_refused() -> None:
    model = network(batch=4)
    model.graph.node.insert(2, onnx.helper.make_node("CumSum", ["r0", "axis"], ["s0"]))
    model.graph.node[3].input[0] = "s0"
    model.graph.initializer.append(numpy_helper.from_array(np.array(0), "axis"))
    calibrated(DATA[:8], model)
    message = r"sample '.*\[8\]', repeated .* fixed batch of 4, .* number of samples that 4"
    with pytest.raises(DataError, match=message):
        calibrated(DATA, model)


def test_samples_of_different_shapes_and_complete_feeds() -> None:
    model = network()
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "side"
    mixed = [DATA[0], DATA[1][:, :5, :], DATA[2], DATA[3][:, :5, :]]
    tables = [
        calibrated(mixed, model),
        calibrated(mixed, model, scan=ScanOptions(batch_size=1)),
        calibrated([row[None] for row in mixed], model),
    ]
    assert tables[0].counts == tables[1].counts == tables[2].counts
    assert {row.seen for row in tables[0].counts} == {4, 2 * 64 + 2 * 40}


def test_a_batch_axis_that_is_dynamic_in_name_only() -> None:
    model = network()
    reshape = next(n for n in model.graph.node if n.op_type == "Flatten")
    reshape.op_type = "Reshape"
    del reshape.attribute[:]
    reshape.input.append("shape")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 6]), "shape"))
    assert calibrated(DATA, model).counts == WHOLE.counts


def test_thresholds_are_those_of_form_hard() -> None:
    for row in WHOLE.counts:
        assert row.c in [Hard().threshold(c_r * WHOLE[row.tensor], "float32") for c_r in C_RS]
    assert list(WHOLE.counts) == sorted(WHOLE.counts, key=lambda row: row.key)


def test_a_site_without_a_maximum_is_not_counted() -> None:
    model = network()
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.zeros(SHAPES["w0"], np.float32), "w0")
    )
    model.graph.node.append(onnx.helper.make_node("MatMul", ["k", "w2"], ["unused"]))
    model.graph.node.insert(0, onnx.helper.make_node("Flatten", ["q"], ["k"]))
    model.graph.node.insert(0, onnx.helper.make_node("GlobalAveragePool", ["p"], ["q"]))
    model.graph.node.insert(0, onnx.helper.make_node("Tanh", ["v"], ["p"]))
    model.graph.node.insert(0, onnx.helper.make_node("Conv", ["x", "w5"], ["v"]))
    weight = np.ones((6, 3, 1, 1), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w5"))
    table = calibrated(DATA, model)
    assert {row.tensor for row in table.sites} == {"r0", "f", "t", "k"}
    assert {row.tensor for row in table.counts} == {"k"}


def test_a_threshold_that_its_type_cannot_hold_names_the_layer() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float16[N,4] x) => (float16[N,4] y) '
        "{ h = Tanh(x) y = MatMul(h, w) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.eye(4, dtype="f2"), "w"))
    data = np.full((2, 4), 0.01, "f2")
    with pytest.raises(DataError, match=r"layer 'y' \(MatMul\): threshold .* too small for"):
        calibrated(data, model, count_cr=[2**-20])
    # And two c_r that are one number there are one count.
    assert len(calibrated(data, model, count_cr=[0.1, 0.1 + 1e-9]).counts) == 1


# What belongs together


def test_non_finite_samples_are_left_out_of_the_counts_too() -> None:
    spoiled = DATA.copy()
    spoiled[[2, 9]] = 3e38
    with pytest.raises(NonFiniteError, match="Inf|infinite"):
        calibrated(spoiled)
    for batch_size in (1, 4, 11):
        scan = ScanOptions(batch_size=batch_size, on_nonfinite="skip")
        table = calibrated(spoiled, scan=scan)
        assert len(table.data.nonfinite) == 2
        rest = np.delete(DATA, [2, 9], axis=0)
        assert table.counts == calibrated(rest).counts == by_numpy(table, rest)


def test_counts_of_other_data_use_the_maxima_of_the_table() -> None:
    other = np.random.default_rng(8).normal(size=(5, 3, 8, 8)).astype("float32") * 3
    expected = by_numpy(WHOLE, other)
    assert counted(other) == counted(iter(other)) == expected
    table = calibrated(other, table=WHOLE)
    assert table.sites == WHOLE.sites
    assert table.counts == expected
    assert table.data == calibrated(other, count_cr=()).data


def test_more_thresholds_join_the_counts_of_the_same_data() -> None:
    first = calibrated(DATA, count_cr=C_RS[:1])
    both = calibrated(DATA, count_cr=["2^-3", "0.3"], table=first)
    assert both == WHOLE
    assert calibrated(DATA, count_cr=C_RS[:1], table=WHOLE) == WHOLE
    assert calibrated(DATA[:4], count_cr=C_RS[:1], table=WHOLE).counts == tuple(
        row for row in counted(DATA[:4]) if row.key in {r.key for r in first.counts}
    )


class Reader:
    def __init__(self) -> None:
        self.batches = iter(np.split(DATA, [5]))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"x": batch}


def rows() -> Iterator[np.ndarray]:
    yield from DATA


@pytest.mark.parametrize("make", [rows, Reader], ids=["generator", "reader"])
def test_data_that_can_be_read_once_is_refused_before_the_scan(make: Any) -> None:
    data = make()
    message = r"type '(generator|Reader)' gives each sample once, and counting reads"
    with pytest.raises(DataError, match=message):
        calibrated(data)
    assert counted(data) == WHOLE.counts, "nothing of it was read"
    with pytest.raises(DataError, match=r"gave no sample: .*; counting reads the"):
        counted(data)


def test_data_that_is_exhausted_in_disguise() -> None:
    class Once:
        def __init__(self) -> None:
            self.rows = iter(DATA)

        def __iter__(self) -> Iterator[np.ndarray]:
            return self.rows

    with pytest.raises(DataError, match=r"gave no sample.* reads the data twice: pass a list"):
        calibrated(Once())


def test_data_that_changes_between_the_readings_is_refused() -> None:
    class Augmented:
        def __init__(self, kept: int) -> None:
            self.rng = np.random.default_rng(0)
            self.kept = kept

        def __iter__(self) -> Iterator[np.ndarray]:
            kept, self.kept = self.kept, 11
            return iter(DATA[:kept] + self.rng.normal() * (kept == 11))

    with pytest.raises(DataError, match=r"'Augmented' gave 11 samples, and 11 or others when"):
        calibrated(Augmented(11))
    with pytest.raises(DataError, match=r"'Augmented' gave 4 samples, and 11 or others when"):
        calibrated(Augmented(4))


def test_bad_samples_and_bad_data_keep_their_own_messages() -> None:
    with pytest.raises(DataError, match=r"takes shape .*transposed$"):
        counted(np.zeros((2, 3, 8, 9), "float32"))
    with pytest.raises(DataError, match=r"sample 'item 0'.*transposed"):
        counted([np.zeros((3, 8, 9), "float32")])
    assert counted([*DATA, np.zeros((3, 8, 9), "float32")], on_bad_sample="skip") == (
        WHOLE.counts
    )


def test_images_have_to_be_read_as_for_the_maxima(tmp_path: Path) -> None:
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    plain = calibrated(tmp_path, count_cr=())
    scan = ScanOptions(image_flags={"mean": (0.5,), "std": (0.5,)})
    message = r"maxima were measured on images read as .* pass the same --preprocess"
    with pytest.raises(DataError, match=message):
        calibrated(tmp_path, table=plain, scan=scan)
    assert calibrated(tmp_path, table=plain) == calibrated(tmp_path)


def test_a_table_of_another_model_or_without_a_site_is_refused() -> None:
    other = network()
    other.graph.initializer[0].raw_data = b"\0" * len(other.graph.initializer[0].raw_data)
    with pytest.raises(TableError, match="was measured on another model"):
        calibrated(DATA, other, table=WHOLE)
    some = calibrated(DATA, selector=Selector("all", include=("y",)))
    assert {row.tensor for row in some.counts} == {"t"}
    with pytest.raises(TableError, match="has no site 'r0'"):
        calibrated(DATA, table=some)


# calibrate()


def test_a_table_with_counts_survives_its_file(tmp_path: Path) -> None:
    table = calibrated(DATA, output=tmp_path / "t.json")
    assert load_table(tmp_path / "t.json") == table == WHOLE
    again = calibrated(DATA, table=tmp_path / "t.json", output=tmp_path / "u.json")
    assert again == table
    with pytest.raises(OutputError, match="is the input itself"):
        calibrated(DATA, table=tmp_path / "t.json", output=tmp_path / "t.json", force=True)


def test_progress_counts_both_scans() -> None:
    seen: list[tuple[int, int | None]] = []
    calibrated(DATA, progress=lambda *state: seen.append(state))
    assert seen[-1] == (11, 11)
    assert [done for done, _ in seen].count(11) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count_cr": "2^-7"}, r"count_cr = '2\^-7' is one text, .* write \('2\^-7',\)"),
        ({"count_cr": ["2-7"]}, r"some shells drop the \^"),
        ({"count_cr": [1.5]}, "c_r = 1.5 is out of range"),
        ({"count_cr": (), "table": WHOLE}, "nothing is left to do: add --count-cr, or leave"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        calibrated(DATA, **arguments)


def stop_at(call: int) -> Any:
    calls = 0

    def progress(done: int, total: int | None) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt

    return progress


def test_ctrl_c_while_counting_keeps_the_maxima(tmp_path: Path) -> None:
    options = {"scan": ScanOptions(batch_size=1), "output": tmp_path / "t.json"}
    message = r"interrupted while counting; .* '.*t\.partial\.json': pass it as --table"
    with pytest.raises(Interrupted, match=message):
        calibrated(DATA, progress=stop_at(15), **options)
    assert not (tmp_path / "t.json").exists()
    partial = load_table(tmp_path / "t.partial.json")
    assert partial.complete
    assert calibrated(DATA, table=partial) == WHOLE
    (tmp_path / "t.partial.json").unlink()
    with pytest.raises(Interrupted, match="interrupted while counting: nothing was written"):
        calibrated(DATA, progress=stop_at(3), table=WHOLE, **options)
    assert list(tmp_path.iterdir()) == []


def test_without_count_cr_the_table_is_what_it_was() -> None:
    plain = calibrated(DATA, count_cr=())
    assert plain.counts == ()
    assert "counts" not in json.dumps(plain.to_json())
    assert plain.sites == WHOLE.sites
