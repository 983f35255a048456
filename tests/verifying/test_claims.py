"""What a file says of itself is made anew and compared; what hides in a file is found."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lipcompile.cli import main
from lipcompile.errors import ModelError, OptionError
from lipcompile.verifying.numbers import tensors_in
from tests.hardened import GRAPHS, Graph, harden, write
from tests.verifying.test_verify import (
    COLUMNS,
    READERS,
    REBUILT,
    SIGNATURE,
    TENSORS,
    UNTOUCHED,
    change_records,
    evidence,
    failed,
    records,
    set_prop,
    verify,
)

Edit = Callable[[onnx.ModelProto], Any]
WEIGHT: dict[str, Any] = {"form": None, "variant": "weight", "cr": 0.2, "zero_rate": 0.8}
CHAIN = Graph("a = Gemm(x, W, B) h = Relu(a) b = MatMul(h, W) y = MatMul(b, V)")


def caught(graph: str, form: str, edit: Edit, folder: Path, **options: Any) -> Any:
    path = write(GRAPHS[graph], folder)
    model = onnx.load(harden(path, form, **options).output)
    assert verify(path, model).holds, "else nothing is shown"
    edit(model)
    return verify(path, model)


# Records of forged sites


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoding": "Nothing"}, 'says encoding = "Nothing"'),
        ({"run": 2}, "says run = 2, and it is 1"),
        ({"added": 1}, "says added = 1, and it is null"),
        ({"absmax": 7}, "says absmax = 7, and it is 7.0"),
    ],
    ids=str,
)
def test_every_field_is_made_anew(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    result = caught("bias", "soft", lambda m: change_records(m, **change), tmp_path)
    assert REBUILT in failed(result)
    assert said in evidence(result, REBUILT)


def corrupt_stored(model: onnx.ModelProto) -> None:
    changed = records(model)
    for record in changed:
        for change in record.get("changes", []):
            if "stored" in change:
                change["stored"] = "AAAA" + change["stored"][4:]
    set_prop(model, "lipcompile.sites", json.dumps(changed))


def test_what_strip_would_write_back_is_compared(tmp_path: Path) -> None:
    result = caught("bias", "soft", corrupt_stored, tmp_path)
    assert failed(result) == {REBUILT}
    assert "says changes = " in evidence(result, REBUILT)


def rewrite_json(model: onnx.ModelProto) -> None:
    set_prop(model, "lipcompile.sites", json.dumps(records(model), indent=1))


def test_records_in_other_words_are_told(tmp_path: Path) -> None:
    result = caught("chain", "hard", rewrite_json, tmp_path)
    assert evidence(result, REBUILT) == (
        "metadata 'lipcompile.sites' says the same in another way"
    )


@pytest.mark.parametrize("change", [{"form": "nope"}, {"a": -5.0}, {"c": 0.0}])
def test_illegal_values_fail_checks(change: dict[str, Any], tmp_path: Path) -> None:
    result = caught("chain", "smooth", lambda m: change_records(m, **change), tmp_path)
    assert {REBUILT, READERS} <= failed(result)
    assert "cannot be hardened as the provenance says: " in evidence(result, REBUILT)


def test_illegal_values_exit_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(GRAPHS["chain"], tmp_path)
    output = harden(path, "smooth").output
    model = onnx.load(output)
    change_records(model, form="nope")
    onnx.save(model, output)
    assert main.run(["verify", str(path), str(output), "--pairs", "0"]) == 1
    assert "the provenance holds an illegal value: form 'nope'" in capsys.readouterr().out


# Other keys


def add_prop(key: str, value: str) -> Edit:
    return lambda model: model.metadata_props.add(key=key, value=value)


KEYS: list[tuple[Edit, set[str], str]] = [
    (lambda m: set_prop(m, "lipcompile.variant", "weight"), {REBUILT}, "variant' is 'weight'"),
    (add_prop("lipcompile.note", "x"), {REBUILT}, "'lipcompile.note' is none that"),
    (add_prop("lipcompile.dropped", "[]"), {REBUILT}, "and rebuilding gives None"),
    (add_prop("lipcompile.inlined", '["f"]'), {REBUILT}, "lipcompile.inlined"),
    (add_prop("lipcompile.form", "smooth"), {REBUILT}, "stands there 2 times"),
    (add_prop("author", "someone"), {SIGNATURE}, "metadata 'author'"),
    (lambda m: set_prop(m, "lipcompile.c_r", "0.3"), {READERS}, "the metadata gives it 0.3"),
    (lambda m: set_prop(m, "lipcompile.c_r", "7"), {READERS}, "c_r = 7 is out of range"),
    (add_prop("lipcompile.c_r_by_layer", '{"a": 0.5}'), {READERS}, "gives it 0.5"),
    (add_prop("lipcompile.c_r_by_layer", "[1]"), {READERS}, "does not fit"),
]


@pytest.mark.parametrize(("edit", "checks", "said"), KEYS)
def test_other_keys_are_compared(
    edit: Edit, checks: set[str], said: str, tmp_path: Path
) -> None:
    result = caught("chain", "smooth", edit, tmp_path)
    assert failed(result) == checks
    assert said in evidence(result, next(iter(checks)))


def test_ratios_of_layers_pass(tmp_path: Path) -> None:
    path = write(GRAPHS["two readers"], tmp_path)
    assert verify(path, harden(path, "smooth", cr_by_layer={"^b$": 0.2}).output).holds


# Variant "weight"


def damaged_columns(model: onnx.ModelProto, **change: Any) -> None:
    props = {p.key: p.value for p in model.metadata_props}
    rows = json.loads(props["lipcompile.columns"])
    set_prop(model, "lipcompile.columns", json.dumps([{**rows[0], **change}, *rows[1:]]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": 10**12}, "has 4 columns, not 1000000000000"),
        ({"count": 3}, "has 4 columns, not 3"),
        ({"columns": [-1]}, "has columns 0 to 3, and others are named"),
        ({"columns": [4]}, "has columns 0 to 3, and others are named"),
        ({"columns": [2, 2]}, "do not rise"),
        ({"columns": []}, "or there are none"),
        ({"layer": "nobody"}, "does not feed a layer 'nobody'"),
        ({"tensor": "nothing"}, "KeyError: 'nothing'"),
        ({"extra": 1}, "says extra = 1"),
    ],
    ids=str,
)
def test_columns_that_no_layer_has(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write(CHAIN, tmp_path)
    model = onnx.load(harden(path, **WEIGHT).output)
    assert verify(path, model).holds
    damaged_columns(model, **change)
    result = verify(path, model)
    assert REBUILT in failed(result)
    assert said in evidence(result, REBUILT)
    assert COLUMNS not in failed(result) or "extra" not in change


@pytest.mark.parametrize("rate", ["0.0", "2", "none", "nan"])
def test_zero_rates_are_legal(rate: str, tmp_path: Path) -> None:
    path = write(CHAIN, tmp_path)
    model = onnx.load(harden(path, **WEIGHT).output)
    set_prop(model, "lipcompile.zero_rate", rate)
    assert REBUILT in failed(verify(path, model))


def test_compacted_models_with_value_info_pass(tmp_path: Path) -> None:
    path = write(onnx.shape_inference.infer_shapes(CHAIN.proto()), tmp_path)
    model = onnx.load(harden(path, **WEIGHT, compact=True).output)
    assert len(model.graph.value_info) < len(onnx.load(path).graph.value_info)
    assert verify(path, model).holds
    cut = copy.deepcopy(model)
    del cut.graph.value_info[:]
    result = verify(path, cut)
    assert failed(result) == {REBUILT}
    assert evidence(result, REBUILT) == "changed value_info"
    set_prop(model, "lipcompile.dropped", "[]")
    assert failed(verify(path, model)) == {REBUILT}


# What hides in a file


def test_names_that_stand_twice_are_refused(tmp_path: Path) -> None:
    """ONNX Runtime takes the first of two initializers, and dictionaries the last."""
    path = write(GRAPHS["chain"], tmp_path)
    model = onnx.load(harden(path, "smooth").output)
    fake = numpy_helper.from_array(np.zeros((4, 4), np.float32), "W")
    model.graph.initializer.insert(0, fake)
    with pytest.raises(ModelError, match="more than one initializer named 'W'"):
        verify(path, model)


def unknown_field(model: onnx.ModelProto) -> None:
    model.MergeFromString(b"\xfa\x3f\x03abc")  # field 1023


def reorder_weights(model: onnx.ModelProto) -> None:
    first = onnx.TensorProto()
    first.CopyFrom(model.graph.initializer[0])
    del model.graph.initializer[0]
    model.graph.initializer.append(first)


@pytest.mark.parametrize(
    ("edit", "checks", "said"),
    [
        (reorder_weights, {REBUILT, UNTOUCHED}, "the weights stand in another order"),
        (unknown_field, {REBUILT}, "something else in the file differs"),
    ],
)
def test_the_whole_file_is_compared(
    edit: Edit, checks: set[str], said: str, tmp_path: Path
) -> None:
    result = caught("chain", "smooth", edit, tmp_path)
    assert checks >= failed(result)
    assert said in " ".join(check.evidence for check in result.checks if check.failed)


def as_floats(model: onnx.ModelProto) -> None:
    constants = [tensor for node in model.graph.node for tensor in tensors_in(node)]
    for tensor in [*model.graph.initializer, *constants]:
        numbers = numpy_helper.to_array(tensor).ravel().tolist()
        tensor.ClearField("raw_data")
        tensor.float_data.extend(numbers)


def test_numbers_that_are_stored_in_another_way_are_no_change(tmp_path: Path) -> None:
    result = caught("chain", "smooth", as_floats, tmp_path)
    assert result.holds, str(result)
    for name in (REBUILT, UNTOUCHED):
        assert "number for number" in evidence(result, name)
        assert "stored in another way: " in evidence(result, name)


def test_external_data_that_was_taken_in_is_no_change(
    external_cnn: Callable[..., Path], tmp_path: Path
) -> None:
    path = external_cnn(tmp_path)
    model = onnx.load(harden(path, "smooth").output)  # reads the data in
    result = verify(path, model)
    assert result.holds, str(result)
    assert "stored in another way: weight " in evidence(result, REBUILT)
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]
    assert {REBUILT, UNTOUCHED} <= failed(verify(path, model))


def test_external_tensors_in_files_of_their_own(tmp_path: Path) -> None:
    """An edited weight becomes inline, so that the others' files are counted anew."""
    path = tmp_path / "model.onnx"
    options = {"save_as_external_data": True, "all_tensors_to_one_file": False}
    onnx.save(CHAIN.proto(), path, size_threshold=0, **options)
    hardened = harden(path, **WEIGHT)
    result = verify(path, hardened.output)
    assert result.holds, str(result)
    (tensor,) = [
        tensor
        for tensor in onnx.load(hardened.output, load_external_data=False).graph.initializer
        if tensor.name == "B"
    ]
    data = path.parent / next(e.value for e in tensor.external_data if e.key == "location")
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    assert "changed weight 'B'" in evidence(verify(path, hardened.output), REBUILT)


def test_external_constants_need_no_name(tmp_path: Path) -> None:
    graph = Graph(
        "w = Constant<value = float[2] {1, 2}>() v = Constant<value = float[2] {1, 2}>() "
        "h = Tanh(x) a = MatMul(h, W) b = MatMul(a, V) y = MatMul(b, V) "
        "z = Concat<axis = 0>(w, v)",
        outputs="float[N,4] y, float[4] z",
    )
    proto = graph.proto()
    for node in proto.graph.node[:2]:
        node.attribute[0].t.name = ""
        node.attribute[0].t.raw_data = numpy_helper.to_array(node.attribute[0].t).tobytes()
        node.attribute[0].t.ClearField("float_data")
    path = tmp_path / "model.onnx"
    options = {"save_as_external_data": True, "convert_attribute": True, "size_threshold": 0}
    onnx.save(proto, path, location="w.bin", **options)
    hardened = harden(path, "smooth").files
    assert verify(path, hardened[0]).holds
    (tensor,) = tensors_in(onnx.load(path, load_external_data=False).graph.node[0])
    offset = next(int(entry.value) for entry in tensor.external_data if entry.key == "offset")
    content = bytearray(hardened[1].read_bytes())
    content[offset] ^= 1
    hardened[1].write_bytes(content)
    assert "changed constant 'w'" in evidence(verify(path, hardened[0]), REBUILT)


# Gates that nothing can be compared with


def test_a_latency_gate_needs_a_latency(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--max-latency-ratio needs a latency"):
        verify(tmp_path / "a.onnx", tmp_path / "b.onnx", max_latency_ratio=1.1)


def test_agreement_of_no_scores_cannot_be_measured(tmp_path: Path) -> None:
    path = write(GRAPHS["bias"], tmp_path)
    result = verify(path, harden(path, "smooth").output, min_agreement=0.5)
    assert result.failed_gates == (
        "top-1 agreement cannot be measured (the first output is no vector of class scores)",
    )
    assert TENSORS not in failed(result)
