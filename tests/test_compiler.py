"""harden() and calibrate() end to end: kinds, options, checks, and what must not happen."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

import lipcompile
from lipcompile import RuntimeOptions, ScanOptions, Selector
from lipcompile.errors import (
    CheckFailed,
    DataError,
    Interrupted,
    ModelError,
    NonFiniteError,
    OptionError,
    OutputError,
    SelectionError,
    TableError,
)
from lipcompile.forged import FORMS


def mlp(dtype: str = "float32", batch: int | str = "N") -> onnx.ModelProto:
    """x [batch, 6] -> Gemm, Relu, Gemm, Relu, Gemm -> y [batch, 3], with seeded weights."""
    rng = np.random.default_rng(0)
    sizes = [6, 16, 8, 3]
    nodes, weights, value = [], [], "x"
    for i, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        last = i == len(sizes) - 2
        w, b = rng.normal(size=(rows, columns)), rng.normal(size=columns)
        weights += [numpy_helper.from_array(w.astype(dtype), f"w{i}")]
        weights += [numpy_helper.from_array(b.astype(dtype), f"b{i}")]
        out = "y" if last else f"fc{i}"
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [out], name=f"fc{i}"))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"relu{i}"], name=f"act{i}"))
            value = f"relu{i}"
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", kind, [batch, 6])],
        [helper.make_tensor_value_info("y", kind, [batch, 3])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"owner": "someone else"})
    return model


@pytest.fixture
def data() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(50, 6)).astype("float32")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(mlp(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def reference_absmax(data: np.ndarray) -> dict[str, float]:
    weights = {t.name: numpy_helper.to_array(t) for t in mlp().graph.initializer}
    first = np.maximum(data @ weights["w0"] + weights["b0"], 0)
    second = np.maximum(first @ weights["w1"] + weights["b1"], 0)
    return {"relu0": np.abs(first).max(), "relu1": np.abs(second).max()}


# The main job


def test_maxima_are_right(path: Path, data: np.ndarray) -> None:
    table = lipcompile.calibrate(path, data, selector=Selector("all"))
    for site, expected in reference_absmax(data).items():
        assert table[site] == pytest.approx(expected, rel=1e-6)
    assert table.data.samples == 50
    assert table.input_range["x"] == (float(data.min()), float(data.max()))


def test_thresholds_are_cr_times_absmax(path: Path, data: np.ndarray) -> None:
    everything = Selector("all")
    result = lipcompile.harden(path, data, cr="2^-6", form="hard", selector=everything)
    rows = [row for row in result.rows if row.selected]
    assert [row.layer for row in rows] == ["fc1", "fc2"]
    for row in rows:
        assert row.tensor is not None
        assert row.c == result.table[row.tensor] * 2**-6


def test_path_is_written_beside_the_model_and_the_input_is_untouched(
    path: Path, data: np.ndarray
) -> None:
    before = path.read_bytes()
    result = lipcompile.harden(path, data)
    assert result.model == result.output == path.with_name("model.hardened.onnx")
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "model.hardened.onnx",
        "model.onnx",
    ]


def test_same_inputs_give_the_same_bytes(path: Path, data: np.ndarray, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        lipcompile.harden(path, data, output=tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("kind", ["proto", "ir", "graphsurgeon"])
def test_in_memory_kinds_come_back_and_nothing_is_written(
    kind: str, path: Path, data: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    model: Any = onnx.load(path)
    if kind == "ir":
        model = ir.load(path)
    if kind == "graphsurgeon":
        model = pytest.importorskip("onnx_graphsurgeon").import_onnx(model)
    result = lipcompile.harden(model, data)
    assert type(result.model) is type(model)
    assert result.output is None
    assert not list(folder.iterdir())


def test_proto_is_not_modified(data: np.ndarray) -> None:
    model = mlp()
    before = model.SerializeToString(deterministic=True)
    lipcompile.harden(model, data, form="hard")
    assert model.SerializeToString(deterministic=True) == before


def test_signature_metadata_and_provenance(path: Path, data: np.ndarray) -> None:
    result = lipcompile.harden(path, data, cr=2**-7)
    before, after = onnx.load(path), onnx.load(result.output)
    assert before.graph.input == after.graph.input
    assert before.graph.output == after.graph.output
    metadata = {p.key: p.value for p in after.metadata_props}
    assert metadata["owner"] == "someone else"
    assert metadata["lipcompile.form"] == "smooth"
    assert float(metadata["lipcompile.c_r"]) == 2**-7
    assert metadata["lipcompile.a"] == "10.0"
    assert metadata["lipcompile.table"] == result.table.digest
    assert metadata["lipcompile.source"] == lipcompile.inspect(path).digest
    sites = json.loads(metadata["lipcompile.sites"])
    assert [s["tensor"] for s in sites] == ["relu0"]
    onnx.checker.check_model(after, full_check=True)


@pytest.mark.parametrize("batch", [1, 3, 8, "N"])
def test_fixed_and_dynamic_batches_give_the_same_maxima(
    batch: int | str, data: np.ndarray
) -> None:
    table = lipcompile.calibrate(mlp(batch=batch), data)
    assert table["relu0"] == pytest.approx(reference_absmax(data)["relu0"], rel=1e-6)
    assert table.data.samples == 50


@pytest.mark.parametrize("form", list(FORMS))
def test_float16_model(form: str, data: np.ndarray) -> None:
    result = lipcompile.harden(mlp("float16"), data.astype("float16"), form=form)
    assert result.agreement is not None
    assert result.agreement.top1 is not None
    assert result.agreement.top1 >= 0.9
    row = next(row for row in result.rows if row.selected)
    assert row.dtype == "float16"


def save_external(path: Path) -> None:
    onnx.save(
        mlp(), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )


def test_external_weights_are_copied_not_read(data: np.ndarray, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir(), target.mkdir()
    save_external(source / "m.onnx")
    result = lipcompile.harden(source / "m.onnx", data, output=target / "m.onnx")
    assert [p.name for p in result.files][1].endswith(".data")
    shutil.rmtree(source)
    again = lipcompile.inspect(target / "m.onnx")
    assert again.provenance["lipcompile.form"] == "smooth"
    onnx.checker.check_model(target / "m.onnx")


def test_no_table_is_written_over_external_weights(data: np.ndarray, tmp_path: Path) -> None:
    model, weights = tmp_path / "m.onnx", tmp_path / "weights.bin"
    save_external(model)
    before = weights.read_bytes()
    match = "weights.bin' is the input itself, which is never touched"
    with pytest.raises(OutputError, match=match):
        lipcompile.harden(model, data, save_table=weights, force=True)
    with pytest.raises(OutputError, match=match):
        lipcompile.calibrate(model, data, output=weights, force=True)
    assert weights.read_bytes() == before


# Tables


def test_a_table_replaces_the_scan(path: Path, data: np.ndarray, tmp_path: Path) -> None:
    table = lipcompile.calibrate(path, data, output=tmp_path / "t.json")
    scanned = lipcompile.harden(path, data, output=tmp_path / "a.onnx")
    given = lipcompile.harden(path, table=tmp_path / "t.json", output=tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert given.agreement is None
    assert scanned.agreement is not None
    assert "not measured" in str(given)
    assert table == lipcompile.load_table(tmp_path / "t.json")


def test_a_table_of_another_model_is_refused(path: Path, data: np.ndarray) -> None:
    other = mlp()
    other.graph.initializer[0].raw_data = bytes(reversed(other.graph.initializer[0].raw_data))
    table = lipcompile.calibrate(path, data)
    with pytest.raises(TableError, match="measured on another model: 'model.onnx'"):
        lipcompile.harden(other, table=table)


def test_a_table_without_a_site_is_refused(path: Path, data: np.ndarray) -> None:
    table = lipcompile.calibrate(path, data)
    with pytest.raises(TableError, match="no site 'relu1'.*--rule all"):
        lipcompile.harden(path, table=table, selector=Selector("all"))


# What the user can get wrong


def test_dead_site_is_refused_with_the_way_out(data: np.ndarray) -> None:
    model = mlp()
    for tensor in model.graph.initializer:
        if tensor.name in ("w0", "b0"):
            values = -np.abs(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    message = r"'fc1' \(Gemm\): calibration maximum is 0.0 over 50 .*--exclude 'fc1'"
    with pytest.raises(DataError, match=message):
        lipcompile.harden(model, np.abs(data))


def test_neither_data_nor_table(path: Path) -> None:
    with pytest.raises(OptionError, match="give calibration data"):
        lipcompile.harden(path)


def test_hardened_model_is_not_hardened_twice(path: Path, data: np.ndarray) -> None:
    first = lipcompile.harden(path, data)
    with pytest.raises(ModelError, match="is hardened already"):
        lipcompile.harden(first.output, data)
    with pytest.raises(SelectionError, match="1 already-hardened"):
        lipcompile.harden(first.output, data, force=True)


def test_force_forges_the_rest_and_keeps_both_records(
    path: Path, data: np.ndarray, tmp_path: Path
) -> None:
    first = lipcompile.harden(path, data, selector=Selector("all", include=("fc1",)))
    second = lipcompile.harden(
        first.output,
        data,
        form="hard",
        selector=Selector("all"),
        force=True,
        output=tmp_path / "both.onnx",
    )
    metadata = {p.key: p.value for p in onnx.load(second.output).metadata_props}
    records = json.loads(metadata["lipcompile.sites"])
    forms = [(r["layers"], r["form"]) for r in records]
    assert forms == [
        (["fc1"], "smooth"),
        (["fc2"], "hard"),
    ]
    assert metadata["lipcompile.source"] == lipcompile.inspect(path).digest


def test_output_is_refused_before_any_work(path: Path, data: np.ndarray) -> None:
    def never() -> Iterator[np.ndarray]:
        raise AssertionError("the data was read")
        yield data[0]

    with pytest.raises(OutputError, match="is the input itself"):
        lipcompile.harden(path, never(), output=path, force=True)


def test_dry_run_refuses_what_the_run_itself_would(path: Path, data: np.ndarray) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        lipcompile.harden(path, data, dry_run=True, output=path.parent / "no" / "x.onnx")
    lipcompile.harden(path, data)
    lipcompile.harden(path, data, dry_run=True)


def test_dry_run_writes_nothing(path: Path, data: np.ndarray) -> None:
    result = lipcompile.harden(path, data, dry_run=True)
    assert result.output is None
    assert result.agreement is not None
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]
    assert "dry run" in str(result)


# Activations that are not finite


def with_overflow() -> onnx.ModelProto:
    """A model whose first activation is exp(x): infinite for x > 88.8, NaN for NaN."""
    model = mlp()
    model.graph.node[1].op_type = "Exp"
    model.graph.node[0].op_type = "MatMul"
    del model.graph.node[0].input[2:]
    weight = np.zeros((6, 16), "float32")
    weight[0] = 1
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w0"))
    return model


def test_infinite_activation_names_sample_and_layer(data: np.ndarray) -> None:
    data[17, 0] = 200.0
    message = r"sample '.*17.*' makes 16 elements of 'relu0' \(the input of layer 'fc1'\)"
    with pytest.raises(NonFiniteError, match=message):
        lipcompile.calibrate(with_overflow(), data)


def test_skipped_nonfinite_samples_are_counted_and_leave_the_maxima(data: np.ndarray) -> None:
    clean = lipcompile.calibrate(with_overflow(), np.delete(data, 17, axis=0))
    data[17, 0] = 200.0
    table = lipcompile.calibrate(with_overflow(), data, scan=ScanOptions(on_nonfinite="skip"))
    assert table.data.samples == 49
    assert len(table.data.nonfinite) == 1
    assert table.sites == clean.sites
    assert table.data.digest == clean.data.digest


def test_all_samples_nonfinite(data: np.ndarray) -> None:
    data[:, 0] = 200.0
    with pytest.raises(NonFiniteError, match="all 50 samples"):
        lipcompile.calibrate(with_overflow(), data, scan=ScanOptions(on_nonfinite="skip"))


def test_a_finite_sum_that_overflows_is_no_error(data: np.ndarray) -> None:
    data[:, 0] = 88.0  # exp(88) = 1.7e38, and 16 of them sum beyond float32
    table = lipcompile.calibrate(with_overflow(), data)
    assert table["relu0"] == pytest.approx(np.exp(88.0), rel=1e-3)
    assert not table.data.nonfinite


# Interruption


@pytest.mark.parametrize("after", [0, 20])
def test_ctrl_c_saves_the_partial_table(
    after: int, path: Path, data: np.ndarray, tmp_path: Path
) -> None:
    def interrupted() -> Iterator[np.ndarray]:
        yield from data[:after]
        raise KeyboardInterrupt

    options = ScanOptions(batch_size=10)
    with pytest.raises(Interrupted) as caught:
        lipcompile.calibrate(path, interrupted(), scan=options, output=tmp_path / "t.json")
    assert caught.value.exit_code == 130
    assert not (tmp_path / "t.json").exists()
    partial = tmp_path / "t.partial.json"
    assert partial.exists() == (after > 0)
    if after:
        table = lipcompile.load_table(partial)
        assert not table.complete
        assert 0 < table.data.samples <= after
        assert "interrupted" in "\n".join(table.summary())


# The checks catch what they are for


def test_a_broken_rewrite_is_caught_and_nothing_is_written(
    path: Path, data: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lipcompile import compiler

    honest = compiler.model_io.render

    def planted(*arguments: Any) -> onnx.ModelProto:
        proto = honest(*arguments)
        proto.graph.output[0].name = "renamed"
        return proto

    monkeypatch.setattr(compiler.model_io, "render", planted)
    with pytest.raises(CheckFailed, match="outputs of 'model.onnx' changed"):
        lipcompile.harden(path, data)
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]


def test_a_hardened_model_with_nan_outputs_is_caught(
    path: Path, data: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lipcompile import compiler

    honest = compiler.model_io.render

    def planted(*arguments: Any) -> onnx.ModelProto:
        proto = honest(*arguments)
        for tensor in proto.graph.initializer:
            if tensor.name == "b2":
                nan = np.full(3, np.nan, "float32")
                tensor.CopyFrom(numpy_helper.from_array(nan, "b2"))
        return proto

    monkeypatch.setattr(compiler.model_io, "render", planted)
    with pytest.raises(CheckFailed, match="output 'y' of the hardened 'model.onnx' is NaN"):
        lipcompile.harden(path, data)


def test_agreement_counts_changed_predictions(path: Path, data: np.ndarray) -> None:
    mild = lipcompile.harden(path, data, cr=2**-12, dry_run=True).agreement
    harsh = lipcompile.harden(path, data, cr=0.9, form="hard", dry_run=True).agreement
    assert mild is not None
    assert harsh is not None
    assert mild.top1 == 1.0
    assert harsh.top1 is not None
    assert harsh.top1 < 1.0
    assert harsh.max_difference > mild.max_difference


def test_unoptimised_runtime_gives_the_same_maxima(path: Path, data: np.ndarray) -> None:
    first = lipcompile.calibrate(path, data)
    second = lipcompile.calibrate(path, data, runtime=RuntimeOptions(optimize=False))
    assert [s.absmax for s in first.sites] == pytest.approx([s.absmax for s in second.sites])


def test_digest_of_samples_knows_no_order(tmp_path: Path, data: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", data)
    np.save(tmp_path / "b.npy", data[::-1])
    tables = [lipcompile.calibrate(mlp(), tmp_path / name) for name in ("a.npy", "b.npy")]
    assert tables[0].data.digest == tables[1].data.digest
    assert tables[0].data.digest != hashlib.sha256(b"").hexdigest()


def test_tensor_proto_names_are_not_needed(data: np.ndarray) -> None:
    model = mlp()
    for node in model.graph.node:
        node.name = ""
    result = lipcompile.harden(model, data, dry_run=True)
    assert [row.layer for row in result.rows] == ["fc0", "fc1", "y"]


@pytest.mark.parametrize(
    ("shape", "compared"),
    [
        ((4, 3), 4),
        ((4, 3, 1, 1), 4),
        ((4, 1), 0),
        ((4, 5, 3), 0),
        ((4, 1, 8, 8), 0),
        ((4,), 0),
    ],
)
def test_only_class_scores_are_compared_by_their_arg_max(
    shape: tuple[int, ...], compared: int
) -> None:
    from lipcompile.calibration.probes import Probe
    from lipcompile.checks import _Comparison

    before = np.random.default_rng(0).normal(size=shape).astype("float32")
    comparison = _Comparison()
    comparison.add(Probe({}, {"y": before}, 4), {"y": -before})
    result = comparison.result()
    assert comparison.compared == compared
    assert (result.top1 is None) == (compared == 0)
    assert result.top1 in (None, 0.0)
    assert result.max_difference == pytest.approx(2.0)
