"""Loading: every kind of model, one digest for one model, one clear error per bad input."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from lipcompile import model_io
from lipcompile.errors import ModelError
from lipcompile.signature import TensorSpec


def write(path, proto):
    path.write_bytes(proto.SerializeToString())
    return path


def kinds(path, proto):
    return {
        "path": str(path),
        "pathlib": path,
        "proto": proto,
        "ir": ir.from_proto(proto),
        "graphsurgeon": onnx_graphsurgeon.import_onnx(proto),
    }


@pytest.mark.parametrize("kind", ["path", "pathlib", "proto", "ir", "graphsurgeon"])
def test_every_kind_loads(kind, tmp_path, small_cnn):
    path = write(tmp_path / "net.onnx", small_cnn())
    loaded = model_io.load(kinds(path, small_cnn())[kind])
    assert loaded.kind == ("path" if kind == "pathlib" else kind)
    assert loaded.name == ("net.onnx" if loaded.kind == "path" else "net")
    assert (loaded.path == path) == (loaded.kind == "path")
    assert loaded.opset == 17
    assert [n.op_type for n in loaded.graph_ir.graph] == [
        node.op_type for node in small_cnn().graph.node
    ]
    assert loaded.external == () and loaded.inlined == ()


@pytest.mark.parametrize("kind", ["path", "pathlib", "proto", "ir"])
def test_one_model_has_one_digest(kind, tmp_path, small_cnn):
    path = write(tmp_path / "net.onnx", small_cnn())
    assert (
        model_io.load(kinds(path, small_cnn())[kind]).digest
        == model_io.load(small_cnn()).digest
    )


def test_loading_changes_neither_the_file_nor_the_object(tmp_path, small_cnn):
    path, proto = write(tmp_path / "net.onnx", small_cnn()), small_cnn()
    before = path.read_bytes(), path.stat().st_mtime_ns
    model_io.load(path)
    model_io.load(proto)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert proto == small_cnn()


def test_inputs_and_outputs_have_names_dtypes_and_shapes():
    proto = parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[n, 3, 8] x, int64[1] k, string[2] s, bfloat16[?, 4] h)
          => (float[n, 3, 8] y) <float[1] w = {1}> { y = Mul (x, w) }
    """)
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]))
    proto.graph.input.append(helper.make_tensor_value_info("u", TensorProto.FLOAT, None))
    proto.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [0, -1, 5]))
    loaded = model_io.load(proto)
    assert loaded.inputs == (
        TensorSpec("x", "float32", ("n", 3, 8)),
        TensorSpec("k", "int64", (1,)),
        TensorSpec("s", None, (2,)),
        TensorSpec("h", "bfloat16", ("", 4)),
        TensorSpec("u", "float32", None),
        TensorSpec("z", "float32", ("", "", 5)),
    )  # and not the initializer w
    assert loaded.outputs == (TensorSpec("y", "float32", ("n", 3, 8)),)
    assert str(loaded.inputs[0]) == "x: float32 [n, 3, 8]"
    assert str(loaded.inputs[4]) == "u: float32 [?]"
    assert [s.fixed_batch for s in loaded.inputs] == [None, 1, 2, None, None, None]


def test_a_spec_accepts_arrays_of_its_rank_and_fixed_dimensions():
    spec = TensorSpec("x", "float32", ("n", 3))
    assert spec.accepts((7, 3)) and spec.accepts((0, 3))
    assert not spec.accepts((7, 4)) and not spec.accepts((3,))
    assert TensorSpec("x", "float32", None).accepts((1, 2, 3))


def test_metadata_is_read(small_cnn):
    assert model_io.load(small_cnn()).metadata == {"author": "someone"}


def test_the_default_domain_has_two_spellings(small_cnn):
    spelled = small_cnn()
    spelled.opset_import[0].domain = "ai.onnx"
    loaded = model_io.load(spelled)
    assert loaded.opset == 17
    assert loaded.digest == model_io.load(small_cnn()).digest
    assert model_io.render(loaded.proto, loaded.graph_ir) == spelled


# Bad input: each kind gets one error that names the file and what to do.


def test_a_missing_file_names_its_neighbours(tmp_path, small_cnn):
    with pytest.raises(ModelError, match=r"'.*nett\.onnx' does not exist: check the path"):
        model_io.load(tmp_path / "nett.onnx")
    write(tmp_path / "net.onnx", small_cnn())
    with pytest.raises(ModelError, match=r"does not exist: the folder has 'net\.onnx'"):
        model_io.load(tmp_path / "nett.onnx")


def test_a_folder_names_the_models_in_it(tmp_path, small_cnn):
    with pytest.raises(ModelError, match="is a folder, and a model is a file: name an .onnx"):
        model_io.load(tmp_path)
    write(tmp_path / "net.onnx", small_cnn())
    with pytest.raises(ModelError, match=r"is a folder.*for example 'net\.onnx'"):
        model_io.load(tmp_path)


def test_a_name_that_no_file_can_have(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        model_io.load(tmp_path / ("a" * 300))


def test_a_file_that_may_not_be_read(tmp_path, small_cnn, monkeypatch):
    path = write(tmp_path / "net.onnx", small_cnn())

    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ModelError, match="cannot be read \\(Permission denied\\)"):
        model_io.load(path)


def contents(small_cnn):
    whole = small_cnn().SerializeToString()
    no_model = onnx.TensorProto(name="t", dims=[2], data_type=1)
    only_graph = onnx.ModelProto()
    only_graph.graph.name = "g"
    return {
        "empty": (b"", r"is empty \(0 bytes\)"),
        "cut short": (whole[: len(whole) // 2], "is not an ONNX model, or was cut short"),
        "random": (random.Random(0).randbytes(5000), "is not an ONNX model"),
        "text": (b"<html>404 Not Found</html>\n" * 9, "is not an ONNX model"),
        "another message": (no_model.SerializeToString(), "is not an ONNX model"),
        "no opset": (only_graph.SerializeToString(), "has no graph, IR version or"),
    }


@pytest.mark.parametrize(
    "case", ["empty", "cut short", "random", "text", "another message", "no opset"]
)
def test_a_file_that_is_no_model(case, tmp_path, small_cnn):
    content, message = contents(small_cnn)[case]
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        model_io.load(path)
    assert "net.onnx" in str(caught.value)


@pytest.mark.parametrize(
    ("opset", "refused"), [(1, True), (6, True), (7, False), (13, False), (99, False)]
)
def test_old_opsets_are_refused(opset, refused, small_cnn):
    proto = small_cnn()
    proto.opset_import[0].version = opset
    if refused:
        with pytest.raises(
            ModelError, match=f"'net' has opset {opset}, and hardening needs 7"
        ):
            model_io.load(proto)
    else:
        assert model_io.load(proto).opset == opset


@pytest.mark.parametrize("thing", [None, 3, b"net.onnx", ["net.onnx"], onnx.GraphProto()])
def test_another_type_is_refused(thing):
    with pytest.raises(ModelError, match=f"type '{type(thing).__name__}' is not supported"):
        model_io.load(thing)


def test_sparse_weights_are_refused(small_cnn):
    """onnx-ir drops them, so the digest would not cover them."""
    proto = small_cnn()
    sparse = proto.graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "conv_b"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([2]), ""))
    del proto.graph.initializer[1]
    with pytest.raises(ModelError, match="'net' keeps weights as sparse tensors"):
        model_io.load(proto)


def test_a_weight_without_a_type_is_refused(small_cnn):
    proto = small_cnn()
    proto.graph.initializer[0].data_type = TensorProto.UNDEFINED
    with pytest.raises(ModelError, match="'net' has a weight that cannot be read"):
        model_io.load(proto)


def test_names_that_are_not_utf8_are_refused(tmp_path, small_cnn):
    path = write(tmp_path / "net.onnx", small_cnn())
    path.write_bytes(path.read_bytes().replace(b"fc1_w", b"fc\xff_w"))
    with pytest.raises(ModelError, match=r"'net\.onnx' has names that are not UTF-8"):
        model_io.load(path)


def repeat_weight(graph):
    graph.initializer.add().CopyFrom(graph.initializer[0])


def repeat_output(graph):
    graph.node.add(op_type="Relu", input=["x"], output=[graph.node[0].output[0]])


def repeat_input(graph):
    graph.input.add().CopyFrom(graph.input[0])


def weight_of_an_output(graph):
    graph.initializer[0].name = graph.node[0].output[0]


def inside(edit):
    def edit_body(graph):
        outer = copy.deepcopy(graph)
        node = graph.node.add(op_type="If", input=["c"], output=["out"])
        body = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
        body.CopyFrom(outer)
        edit(body)

    return edit_body


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        pytest.param(repeat_weight, "more than one initializer named", id="weight"),
        pytest.param(repeat_output, "more than one value named", id="output"),
        pytest.param(repeat_input, "more than one value named", id="input"),
        pytest.param(weight_of_an_output, "more than one value named", id="both"),
        pytest.param(inside(repeat_weight), "more than one initializer named", id="inside"),
    ],
)
def test_names_that_stand_twice_are_refused(edit, message, small_cnn):
    """Runtimes take the first, or the last, or none."""
    proto = small_cnn()
    edit(proto.graph)
    with pytest.raises(ModelError, match=f"'net' has {message} '.*rename"):
        model_io.load(proto)


def test_names_that_may_stand_twice(small_cnn):
    proto = small_cnn()
    for tensor in proto.graph.initializer:  # as before IR version 4
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        proto.graph.input.append(info)
    proto.graph.node.add(op_type="Dropout", input=["x"], output=["d", ""])
    proto.graph.node.add(op_type="Dropout", input=["x"], output=["e", ""])
    model_io.load(proto)


def test_the_reason_of_an_invalid_graph_is_the_first_cause(small_cnn):
    proto = small_cnn()
    proto.graph.initializer[0].data_type = 77
    with pytest.raises(
        ModelError, match=r"not a valid ONNX graph \(77 is not a valid DataType"
    ):
        model_io.load(proto)


def test_an_ir_model_that_does_not_serialise(small_cnn):
    model = ir.from_proto(small_cnn())
    model.graph[0].outputs[0].name = None
    with pytest.raises(ModelError, match=r"onnx_ir\.Model cannot be serialised"):
        model_io.load(model)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_bytes_load_or_raise_a_model_error(data, tmp_path_factory):
    good = bytes(_SEED.SerializeToString(deterministic=True))
    edits = st.lists(
        st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)), min_size=1, max_size=4
    )
    damaged = bytearray(good)
    for position, byte in data.draw(edits):
        damaged[position] = byte
    end = data.draw(st.sampled_from([len(good), len(good), len(good) // 3]))
    path = tmp_path_factory.getbasetemp() / f"damaged-{len(good)}.onnx"
    path.write_bytes(damaged[:end])
    try:
        loaded = model_io.load(path)
    except ModelError as error:
        assert str(error).count(":") >= 1
        return
    model_io.serialize(model_io.render(loaded.proto, loaded.graph_ir))
    assert all(map(str, (*loaded.inputs, *loaded.outputs)))


_SEED = parser.parse_model("""
    <ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[n, 2] x) => (float[n, 2] y) <float[2, 2] w = {1, 2, 3, 4}> {
        t = local.inner (x, w)
        y = Relu (t)
    }
    <domain: "local", opset_import: ["": 17]>
    inner (a, b) => (c) { c = MatMul (a, b) }
""")


# Types that onnx-ir does not read


def test_map_outputs_load():
    """The ZipMap of a scikit-learn classifier."""
    proto = parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 3]>
        g (float[n, 4] x) => (float[n, 3] p) <float[4, 3] w = {0,1,2,3,4,5,6,7,8,9,10,11}> {
            l = MatMul (x, w)
            p = Softmax (l)
            z = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1, 2]> (p)
        }
    """)
    scores = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    zipped = helper.make_sequence_type_proto(scores)
    proto.graph.output.append(helper.make_value_info("z", zipped))
    loaded = model_io.load(proto)
    assert loaded.outputs == (
        TensorSpec("p", "float32", ("n", 3)),
        TensorSpec("z", None, None),
    )
    assert model_io.render(loaded.proto, loaded.graph_ir) == proto


# Local functions

_FUNCTIONS = """
    <ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[n, 2] x) => (float[n, 2] y, float[n, 2] z) <float[2, 2] w = {1, -2, 3, 4}> {
        t = Relu (x)
        y = local.outer (t, w)
        z = local.act (y)
    }
    <domain: "local", opset_import: ["": 17]>
    inner (a, b) => (c) { t = MatMul (a, b)  c = Relu (t) }
    <domain: "local", opset_import: ["": 17, "local": 1]>
    outer (a, b) => (c) { t = local.inner (a, b)  c = local.inner (t, b) }
    <domain: "local", opset_import: ["": 17]>
    act (a) => (c) { c = Neg (a) }
"""


def run(proto, **feeds):
    import onnxruntime as ort

    return ort.InferenceSession(proto.SerializeToString()).run(None, feeds)


def test_functions_with_linear_layers_are_inlined_and_others_kept():
    proto = parser.parse_model(_FUNCTIONS)
    loaded = model_io.load(proto)
    assert loaded.inlined == ("inner", "outer")
    assert [n.op_type for n in loaded.proto.graph.node] == [
        "Relu",
        "MatMul",
        "Relu",
        "MatMul",
        "Relu",
        "act",
    ]
    assert [f.name for f in loaded.proto.functions] == ["act"]
    assert loaded.proto.functions[0] == proto.functions[2]
    assert proto == parser.parse_model(_FUNCTIONS)
    onnx.checker.check_model(loaded.proto)
    x = np.array([[1, -2], [3, 0.5]], np.float32)
    for got, want in zip(run(loaded.proto, x=x), run(proto, x=x), strict=True):
        np.testing.assert_array_equal(got, want)


def test_functions_without_linear_layers_are_kept():
    proto = parser.parse_model(_FUNCTIONS.replace("MatMul (a, b)", "Add (a, b)"))
    loaded = model_io.load(proto)
    assert loaded.inlined == ()
    assert loaded.proto is proto


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        pytest.param(
            '["": 17]>\n    inner', '["": 13]>\n    inner', "version 13 in", id="opset"
        ),
        pytest.param("outer (t, w)", "outer (t, w, w)", "3 inputs", id="arity"),
    ],
)
def test_functions_that_cannot_be_inlined(old, new, reason):
    assert old in _FUNCTIONS
    proto = parser.parse_model(_FUNCTIONS.replace(old, new))
    with pytest.raises(ModelError, match=f"functions of 'g' cannot be inlined.*{reason}"):
        model_io.load(proto)


# Nesting

_NEST = """
import sys
import onnx
from onnx import TensorProto, helper
from lipcompile import model_io
from lipcompile.errors import ModelError

model = onnx.ModelProto(ir_version=8)
model.opset_import.add(version=17)
graph = model.graph
graph.name = "g"
graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]))
graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
for level in range(int(sys.argv[1])):
    graph.output.append(helper.make_tensor_value_info(f"o{level}", TensorProto.FLOAT, [1]))
    node = graph.node.add(op_type="If", input=["c"], output=[f"o{level}"])
    graph = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
    graph.name = f"b{level}"
graph.output.append(helper.make_tensor_value_info("last", TensorProto.FLOAT, [1]))
graph.node.append(helper.make_node("Identity", ["x"], ["last"]))
try:
    loaded = model_io.load(model)
    again = onnx.ModelProto()
    again.ParseFromString(model_io.serialize(model_io.render(loaded.proto, loaded.graph_ir)))
    assert again == model
    print("loaded")
except ModelError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("depth", "answer"),
    [(31, "loaded"), (32, "too deeply"), (300, "too deeply"), (5000, "too deeply")],
)
def test_deep_nesting_does_not_crash_the_interpreter(depth, answer):
    done = subprocess.run(
        [sys.executable, "-c", _NEST, str(depth)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert answer in done.stdout
