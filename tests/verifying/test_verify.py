"""Clean models pass; everything that is planted is caught by the checks that should."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import lipcompile
from lipcompile import ScanOptions, Selector, VerifyResult, model_io
from lipcompile.errors import DataError, ModelError, OptionError
from tests.hardened import GRAPHS, Graph, harden, write

FORMS = ["smooth", "hard", "soft"]
TARGETS = ["portable", "ort-cpu", "ort-cuda", "tensorrt"]
SIGNATURE, OUTPUTS = "signature", "finite outputs"
REBUILT, UNTOUCHED = "rebuilt from provenance", "untouched nodes and weights"
READERS, TENSORS = "thresholds and readers", "forged tensors"
COLUMNS = "zeroed columns"


def verify(original: Path, hardened: Any, **options: Any) -> VerifyResult:
    given = {"pairs": 0, "scan": ScanOptions(samples=64), **options}
    return lipcompile.verify(original, hardened, **given)


def failed(result: VerifyResult) -> set[str]:
    return {check.name for check in result.checks if check.failed}


def evidence(result: VerifyResult, name: str) -> str:
    return next(check.evidence for check in result.checks if check.name == name)


# Clean models


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_clean_models_pass(graph: Graph, form: str, tmp_path: Path) -> None:
    path = write(graph, tmp_path)
    result = verify(path, harden(path, form).output)
    assert failed(result) == set(), str(result)
    decided = {check.name: check.holds for check in result.checks if check.decides}
    names = ("belongs together", SIGNATURE, REBUILT, UNTOUCHED, READERS, TENSORS, OUTPUTS)
    assert decided == dict.fromkeys(names, True)
    assert result.holds
    assert " 0.00 %" not in evidence(result, TENSORS), "nothing was shown"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", FORMS)
def test_clean_models_of_every_target_pass(form: str, target: str, tmp_path: Path) -> None:
    path = write(GRAPHS["pooled"], tmp_path)
    assert verify(path, harden(path, form, target=target).output).holds


@pytest.mark.parametrize("first", FORMS)
@pytest.mark.parametrize("second", FORMS)
def test_models_hardened_twice_pass(first: str, second: str, tmp_path: Path) -> None:
    graph = "a = Gemm(x, W, B) h = Relu(a) b = MatMul(h, W) c = MatMul(h, V) d = Add(b, c) "
    path = write(Graph(graph + "e = Relu(d) y = MatMul(e, W)"), tmp_path)
    once = harden(path, first, selector=Selector("all", include=("^b$",))).output
    twice = harden(once, second, force=True, output=tmp_path / "twice.onnx").output
    result = verify(path, twice)
    assert result.holds, str(result)


def test_external_data_is_compared_in_full(
    external_cnn: Callable[..., Path], tmp_path: Path
) -> None:
    path = external_cnn(tmp_path)
    hardened = harden(path, "smooth")
    assert verify(path, hardened.output).holds
    data = hardened.files[1]
    content = bytearray(data.read_bytes())
    content[-1] ^= 1  # the last bit of some weight
    data.write_bytes(content)
    result = verify(path, hardened.output)
    assert failed(result) == {REBUILT, UNTOUCHED}
    assert "changed weight " in evidence(result, REBUILT)


def test_models_in_memory_and_data(tmp_path: Path) -> None:
    proto = GRAPHS["bias"].proto()
    hardened = lipcompile.harden(proto, "random:2", form="soft", selector=Selector("all"))
    data = np.random.default_rng(5).normal(size=(3, 4, 6, 6)).astype(np.float32)
    result = verify(proto, hardened.model, data=data)  # type: ignore[arg-type]
    assert result.holds
    assert result.data == "3 samples of 'ndarray'"
    assert result.agreement is not None and result.agreement.samples == 3


def test_latency_and_the_optimised_graph_are_told(tmp_path: Path) -> None:
    path = write(GRAPHS["bias"], tmp_path)
    result = verify(path, harden(path, "smooth").output, pairs=5)
    assert result.latency is not None and result.latency.pairs == 5
    assert result.fusions is not None and "Sigmoid" in str(result.fusions.added)
    assert evidence(result, "latency").endswith("n = 5 pairs) of the original's on CPU")
    assert json.loads(json.dumps(result.to_json()))["latency"]["pairs"] == 5


# Planted: what is changed in a file, and which checks catch it


def constant(model: onnx.ModelProto, name: str) -> Any:
    node = next(n for n in model.graph.node if n.name == name)
    return node.attribute[0].t


def scale(tensor: Any, factor: float) -> None:
    array = numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))


def weight(model: onnx.ModelProto, name: str) -> Any:
    return next(t for t in model.graph.initializer if t.name == name)


def producer(model: onnx.ModelProto, name: str) -> Any:
    return next(n for n in model.graph.node if name in n.output)


def change_constant(model: onnx.ModelProto) -> None:
    mul = next(n for n in model.graph.node if n.op_type == "Mul")
    scale(producer(model, mul.input[1]).attribute[0].t, 1.01)


def change_alpha(model: onnx.ModelProto) -> None:
    producer(model, "h").attribute[0].f *= 1.5


def records(model: onnx.ModelProto) -> list[dict[str, Any]]:
    props = {p.key: p.value for p in model.metadata_props}
    return json.loads(props["lipcompile.sites"])  # type: ignore[no-any-return]


def set_prop(model: onnx.ModelProto, key: str, value: str) -> None:
    next(p for p in model.metadata_props if p.key == key).value = value


def change_records(model: onnx.ModelProto, **change: Any) -> None:
    changed = [{**record, **change} for record in records(model)]
    set_prop(model, "lipcompile.sites", json.dumps(changed))


def change_c(model: onnx.ModelProto) -> None:
    (record,) = records(model)
    change_records(model, c=float(np.float32(record["c"] * 1.5)))


def change_c_and_alpha(model: onnx.ModelProto) -> None:
    change_c(model)
    producer(model, "h").attribute[0].f = records(model)[0]["c"]


def flip_a_bit(model: onnx.ModelProto) -> None:
    tensor = weight(model, "W")
    content = bytearray(tensor.raw_data)
    content[0] ^= 1
    tensor.raw_data = bytes(content)


def shift_again(model: onnx.ModelProto) -> None:
    tensor = weight(model, "B")
    array = numpy_helper.to_array(tensor) + np.float32(0.01)
    tensor.CopyFrom(numpy_helper.from_array(array, "B"))


def insert_a_node(model: onnx.ModelProto) -> None:
    node = model.graph.node[-1]
    node.input[1] = "copied"
    extra = helper.make_node("Identity", ["V"], ["copied"], "sneaked")
    model.graph.node.insert(len(model.graph.node) - 1, extra)


def remove_a_site(model: onnx.ModelProto) -> None:
    node = producer(model, "a")
    node.input[:] = ["h" if "lipcompile/" in name else name for name in node.input]


def remove_a_site_and_its_record(model: onnx.ModelProto) -> None:
    remove_a_site(model)
    kept = [record for record in records(model) if record["at"] != "h"]
    set_prop(model, "lipcompile.sites", json.dumps(kept))


def remove_a_site_whole(model: onnx.ModelProto) -> None:
    """Its nodes as well, and not its record."""
    remove_a_site(model)
    kept = [n for n in model.graph.node if not n.output[0].startswith("lipcompile/a/")]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def restore_the_relu(model: onnx.ModelProto) -> None:
    node = producer(model, "h")
    node.op_type = "Relu"
    del node.attribute[:]
    del node.metadata_props[:]


def rename_the_producer(model: onnx.ModelProto) -> None:
    model.producer_name = "nobody"


def rename_an_axis(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "M"


def change_ir_version(model: onnx.ModelProto) -> None:
    model.ir_version += 1


def change_other_metadata(model: onnx.ModelProto) -> None:
    set_prop(model, "author", "someone else")


def sites_of_another_model(model: onnx.ModelProto) -> None:
    change_records(model, at="q", tensor="q", forged="lipcompile/q/forged", layers=["q"])


def damage_a_record(model: onnx.ModelProto) -> None:
    set_prop(model, "lipcompile.sites", '[{"layers": 7}]')


def say_another_a(model: onnx.ModelProto) -> None:
    set_prop(model, "lipcompile.a", "5.0")


def give_nan(model: onnx.ModelProto) -> None:
    tensor = weight(model, "V")
    array = np.full((4, 4), np.nan, np.float32)
    tensor.CopyFrom(numpy_helper.from_array(array, "V"))


def reorder(model: onnx.ModelProto) -> None:
    """Two constants, which any order computes."""
    nodes = list(model.graph.node)
    first, second = [i for i, n in enumerate(nodes) if n.op_type == "Constant"][:2]
    nodes[first], nodes[second] = nodes[second], nodes[first]
    model.graph.node.sort(key=lambda n: nodes.index(n))


def drop_a_mark(model: onnx.ModelProto) -> None:
    del producer(model, "h").metadata_props[:]


TAMPERED: list[tuple[str, str, Callable[[onnx.ModelProto], None], set[str]]] = [
    ("chain", "smooth", change_constant, {REBUILT, TENSORS}),
    ("relu", "hard", change_alpha, {REBUILT, TENSORS}),
    ("relu", "hard", change_c, {REBUILT, READERS, TENSORS}),
    ("bias", "soft", change_c, {REBUILT, READERS, TENSORS}),
    ("relu", "hard", change_c_and_alpha, {READERS}),
    ("chain", "smooth", flip_a_bit, {REBUILT, UNTOUCHED}),
    ("bias", "soft", shift_again, {REBUILT, TENSORS}),
    ("chain", "hard", insert_a_node, {REBUILT, UNTOUCHED}),
    ("residual", "smooth", remove_a_site, {REBUILT, READERS}),
    ("residual", "smooth", remove_a_site_whole, {REBUILT, READERS, TENSORS}),
    ("residual", "smooth", remove_a_site_and_its_record, {REBUILT}),
    ("relu", "hard", restore_the_relu, {REBUILT, READERS, TENSORS}),
    ("relu", "hard", drop_a_mark, {REBUILT, READERS}),
    ("chain", "smooth", rename_the_producer, {SIGNATURE}),
    ("chain", "smooth", rename_an_axis, {SIGNATURE}),
    ("chain", "smooth", change_ir_version, {SIGNATURE}),
    ("chain", "smooth", change_other_metadata, {SIGNATURE}),
    ("chain", "smooth", reorder, {REBUILT}),
    ("chain", "smooth", sites_of_another_model, {REBUILT, UNTOUCHED, READERS, TENSORS}),
    ("chain", "smooth", damage_a_record, {REBUILT, UNTOUCHED, READERS, TENSORS}),
    ("chain", "smooth", say_another_a, {REBUILT, READERS}),
    ("chain", "smooth", give_nan, {REBUILT, UNTOUCHED, OUTPUTS}),
]


@pytest.mark.parametrize(
    ("graph", "form", "edit", "caught"),
    TAMPERED,
    ids=[f"{edit.__name__}-{form}" for _, form, edit, _ in TAMPERED],
)
def test_tampering_is_caught_by_the_right_checks(
    graph: str,
    form: str,
    edit: Callable[[onnx.ModelProto], None],
    caught: set[str],
    tmp_path: Path,
) -> None:
    path = write(GRAPHS[graph], tmp_path)
    output = harden(path, form).output
    model = onnx.load(output)
    edit(model)
    result = verify(path, model)
    assert failed(result) == caught, str(result)
    assert not result.holds
    assert result.verdict == "the file is NOT what its provenance says"


def test_a_form_that_differs_slightly_is_caught(tmp_path: Path) -> None:
    path = write(GRAPHS["chain"], tmp_path)
    output = harden(path, lipcompile.make_form("smooth", a=10.001)).output  # type: ignore[arg-type]
    model = onnx.load(output)
    set_prop(model, "lipcompile.a", "10.0")
    change_records(model, a=10.0)
    assert failed(verify(path, model)) == {REBUILT, TENSORS}


def test_differences_are_named_and_then_counted(tmp_path: Path) -> None:
    path = write(GRAPHS["residual"], tmp_path)
    model = onnx.load(harden(path, "smooth").output)
    remove_a_site_whole(model)
    text = evidence(verify(path, model), REBUILT)
    assert text.startswith("missing constant 'lipcompile/a/Constant'; missing ")
    assert text.endswith(" more")


def test_what_agrees_with_itself_passes(tmp_path: Path) -> None:
    """A provenance is no signature: this is a limit, and docs/commands/verify.md says so."""
    path = write(GRAPHS["relu"], tmp_path)
    model = onnx.load(harden(path, "hard").output)
    change_c_and_alpha(model)
    (record,) = records(model)
    change_records(model, absmax=2 * record["c"], c_r=0.5)
    set_prop(model, "lipcompile.c_r", "0.5")
    assert verify(path, model).holds


# Variant "weight"


@pytest.fixture
def zeroed(tmp_path: Path) -> tuple[Path, onnx.ModelProto]:
    path = write(GRAPHS["two readers"], tmp_path)
    options = {"variant": "weight", "cr": 0.2, "zero_rate": 0.8}
    output = harden(path, None, **options).output  # type: ignore[arg-type]
    return path, onnx.load(output)


def test_zeroed_columns_pass(zeroed: tuple[Path, onnx.ModelProto]) -> None:
    path, model = zeroed
    result = verify(path, model)
    assert result.holds, str(result)
    assert result.variant == "weight"
    assert evidence(result, COLUMNS).startswith("exactly ")
    assert TENSORS not in {check.name for check in result.checks}


def edit_weight(model: onnx.ModelProto, value: float, row: int) -> None:
    name = json.loads(model_io.load(model).metadata["lipcompile.columns"])[0]
    node = producer(model, name["layer"])
    array = numpy_helper.to_array(weight(model, node.input[1])).copy()
    array[row if value == 0.0 else name["columns"][0]] = value
    tensor = weight(model, node.input[1])
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_other_columns_are_caught(value: float, zeroed: tuple[Path, onnx.ModelProto]) -> None:
    path, model = zeroed
    columns = json.loads(model_io.load(model).metadata["lipcompile.columns"])[0]["columns"]
    row = next(row for row in range(4) if row not in columns)
    edit_weight(model, value, row)
    assert failed(verify(path, model)) == {REBUILT, COLUMNS}


def test_columns_that_the_provenance_does_not_name_are_caught(
    zeroed: tuple[Path, onnx.ModelProto],
) -> None:
    path, model = zeroed
    columns = json.loads(model_io.load(model).metadata["lipcompile.columns"])
    columns[0]["columns"].pop()
    set_prop(model, "lipcompile.columns", json.dumps(columns))
    assert COLUMNS in failed(verify(path, model))


def test_compacted_models_are_rebuilt(tmp_path: Path) -> None:
    path = write(
        Graph("a = Gemm(x, W, B) h = Relu(a) b = MatMul(h, W) y = MatMul(b, V)"), tmp_path
    )
    options = {"variant": "weight", "cr": 0.2, "zero_rate": 0.8, "compact": True}
    model = onnx.load(harden(path, None, **options).output)  # type: ignore[arg-type]
    result = verify(path, model)
    assert result.holds, str(result)
    states = {check.name: check.holds for check in result.checks}
    assert (states[UNTOUCHED], states[COLUMNS], states[REBUILT]) == (None, None, True)
    tensor = model.graph.initializer[0]
    scale(tensor, 1.5)
    assert failed(verify(path, model)) == {REBUILT}


# What cannot be run


def test_random_samples_that_do_not_do_leave_checks_open(tmp_path: Path) -> None:
    graph = Graph(
        "h = Relu(x) c = Constant<value = float[3,4] {1,1,1,1,1,1,1,1,1,1,1,1}>() "
        "d = Add(h, c) e = Concat<axis = 0>(d, h) s = Constant<value = int64[2] {6, 4}>() "
        "r = Reshape(e, s) a = MatMul(r, W) y = MatMul(a, V)",
        outputs="float[M,4] y",
    )
    path = write(graph, tmp_path)  # three rows alone fit
    data = [np.ones((3, 4), np.float32)]
    given = {"cr": 0.1, "selector": Selector("all"), "form": "hard"}
    hardened = lipcompile.harden(path, [{"x": data[0]}], **given).output  # type: ignore[arg-type]
    result = verify(path, hardened)
    states = {check.name: check.holds for check in result.checks}
    assert (states[TENSORS], states[OUTPUTS], states[REBUILT]) == (None, None, True)
    assert "pass --data" in evidence(result, OUTPUTS)
    assert verify(path, hardened, data=[{"x": data[0]}]).holds


def test_a_model_that_does_not_load_fails(tmp_path: Path) -> None:
    path = write(GRAPHS["chain"], tmp_path)
    model = onnx.load(harden(path, "smooth").output)
    producer(model, "y").op_type = "Unheard"
    result = verify(path, model)
    assert OUTPUTS in failed(result)
    assert "the original loads, and this does not" in evidence(result, OUTPUTS)


def test_findings_are_the_checks_and_the_gates(tmp_path: Path) -> None:
    path = write(GRAPHS["chain"], tmp_path)
    whole = harden(path, "smooth").output
    model = onnx.load(whole)
    producer(model, "y").input[1] = "W"
    result = verify(path, model, pairs=0, min_agreement=0.0)
    states = {finding.name: finding.holds for finding in result.findings()}
    expected = {check.name: check.holds for check in result.checks}
    assert states == {**expected, "--min-agreement": True}
    assert failed(result)
    assert result.failed_gates[0].startswith("the file is NOT what its provenance says: ")
    assert all(name in result.failed_gates[0] for name in failed(result))
    assert verify(path, whole, pairs=0, min_agreement=0.0).failed_gates == ()


# Gates


def test_gates(tmp_path: Path) -> None:
    path = write(GRAPHS["chain"], tmp_path)
    hardened = harden(path, "smooth").output
    result = verify(path, hardened, pairs=3, min_agreement=0.0, max_latency_ratio=1e-9)
    assert result.holds
    assert len(result.failed_gates) == 1
    assert "above --max-latency-ratio 1e-09" in result.failed_gates[0]
    assert "gate failed: latency ratio" in str(result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_agreement": 1.1}, "--min-agreement 1.1 is out of range"),
        ({"max_latency_ratio": 0.0}, "--max-latency-ratio 0 is out of range"),
        ({"pairs": -1}, "pairs = -1 is negative"),
    ],
)
def test_illegal_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        verify(tmp_path / "a.onnx", tmp_path / "b.onnx", **options)


# Bad input


def test_models_that_do_not_belong_together(tmp_path: Path) -> None:
    path = write(GRAPHS["chain"], tmp_path)
    hardened = harden(path, "smooth").output
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ModelError, match="do not belong together: what was hardened is sha"):
        verify(write(GRAPHS["relu"], other), hardened)
    with pytest.raises(ModelError, match="is not hardened .* name the file that"):
        verify(path, path)
    with pytest.raises(ModelError, match="give the original first"):
        verify(hardened, path)  # type: ignore[arg-type]


def test_metadata_of_another_model(tmp_path: Path) -> None:
    path = write(GRAPHS["chain"], tmp_path)
    model = onnx.load(harden(path, "smooth").output)
    (tmp_path / "other").mkdir()
    other = onnx.load(harden(write(GRAPHS["relu"], tmp_path / "other"), "smooth").output)
    del model.metadata_props[:]
    model.metadata_props.extend(other.metadata_props)
    with pytest.raises(ModelError, match="do not belong together"):
        verify(path, model)


def test_bad_data_is_an_error_and_no_check(tmp_path: Path) -> None:
    path = write(GRAPHS["chain"], tmp_path)
    with pytest.raises(DataError, match=r"\[3, 5\]|5"):
        verify(path, harden(path, "smooth").output, data=np.zeros((3, 5), np.float32))


# Without the rebuilt model, which comes from the passes that hardened the file


@pytest.mark.parametrize(
    ("graph", "form", "edit", "caught"),
    [case for case in TAMPERED if case[3] - {REBUILT}],
    ids=[f"{edit.__name__}-{form}" for _, form, edit, names in TAMPERED if names - {REBUILT}],
)
def test_other_checks_do_not_rest_on_rebuilding(
    graph: str,
    form: str,
    edit: Callable[[onnx.ModelProto], None],
    caught: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(GRAPHS[graph], tmp_path)
    model = onnx.load(harden(path, form).output)
    edit(model)
    # What rebuilds any file exactly says nothing about it.
    monkeypatch.setattr("lipcompile.verifying.rebuilding.rebuild", lambda *_: model)
    assert failed(verify(path, model)) == caught - {REBUILT}
