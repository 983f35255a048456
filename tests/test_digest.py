"""The digest: changes with what the model computes, and with nothing else."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from lipcompile import model_io


def digest(proto):
    return model_io.load(proto).digest


def flip_a_weight_bit(proto):
    raw = bytearray(proto.graph.initializer[0].raw_data)
    raw[0] ^= 1
    proto.graph.initializer[0].raw_data = bytes(raw)


def reshape_a_weight(proto):
    proto.graph.initializer[1].dims[:] = [2, 2]


def retype_a_weight(proto):
    proto.graph.initializer[1].data_type = TensorProto.INT32


def rename_a_weight(proto):
    proto.graph.initializer[0].name = "other"
    proto.graph.node[0].input[1] = "other"


def change_an_attribute(proto):
    proto.graph.node[0].attribute[0].ints[0] = 2


def rename_an_attribute(proto):
    proto.graph.node[0].attribute[0].name = "strides"


def add_an_attribute(proto):
    proto.graph.node[4].attribute.append(helper.make_attribute("alpha", 1.0000001))


def rewire_an_edge(proto):
    proto.graph.node[2].input[0] = "c"


def drop_an_optional_input(proto):
    proto.graph.node[0].input[2] = ""


def change_an_operator(proto):
    proto.graph.node[1].op_type = "Sigmoid"


def change_a_domain(proto):
    proto.graph.node[1].domain = "com.microsoft"


def swap_two_nodes(proto):
    nodes = list(proto.graph.node)
    nodes[0], nodes[1] = nodes[1], nodes[0]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def remove_a_node(proto):
    del proto.graph.node[-1]
    proto.graph.output[0].name = "s"


def change_the_opset(proto):
    proto.opset_import[0].version = 18


def change_an_input_shape(proto):
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 9


def change_an_output_type(proto):
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


@pytest.mark.parametrize(
    "change",
    [
        flip_a_weight_bit,
        reshape_a_weight,
        retype_a_weight,
        rename_a_weight,
        change_an_attribute,
        rename_an_attribute,
        add_an_attribute,
        rewire_an_edge,
        drop_an_optional_input,
        change_an_operator,
        change_a_domain,
        swap_two_nodes,
        remove_a_node,
        change_the_opset,
        change_an_input_shape,
        change_an_output_type,
    ],
)
def test_what_the_model_computes_changes_the_digest(change, small_cnn):
    proto = small_cnn()
    change(proto)
    assert proto != small_cnn()
    assert digest(proto) != digest(small_cnn())


def document(proto):
    proto.doc_string = proto.graph.doc_string = "new"
    for node in proto.graph.node:
        node.doc_string = "new"


def rename_nodes(proto):
    for index, node in enumerate(proto.graph.node):
        node.name = f"n{index}"
    proto.graph.name = "other"


def add_metadata(proto):
    helper.set_model_props(proto, {"k": "v"})
    proto.graph.node[0].metadata_props.add(key="k", value="v")
    proto.graph.metadata_props.add(key="k", value="v")


def add_value_info(proto):
    for name in ("c", "x", "y", "conv_w"):
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4)
        proto.graph.value_info.append(info)


def change_the_producer(proto):
    proto.producer_name, proto.producer_version = "else", "2"
    proto.domain, proto.model_version = "d", 7


def reorder_weights(proto):
    weights = list(proto.graph.initializer)[::-1]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(weights)


def store_a_weight_in_another_field(proto):
    tensor = proto.graph.initializer[1]
    values = numpy_helper.to_array(tensor)
    tensor.ClearField("raw_data")
    tensor.float_data.extend(values.tolist())


@pytest.mark.parametrize(
    "change",
    [
        document,
        rename_nodes,
        add_metadata,
        add_value_info,
        change_the_producer,
        reorder_weights,
        store_a_weight_in_another_field,
    ],
)
def test_what_people_write_does_not_change_the_digest(change, small_cnn):
    proto = small_cnn()
    change(proto)
    assert proto != small_cnn()
    assert digest(proto) == digest(small_cnn())


_NESTED = """
    <ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[2] x, bool c) => (float[2] y) {
        t = If (c) <
            then_branch = a () => (float[2] u) <float[2] v = {3, 4}> { u = Add (x, v) },
            else_branch = b () => (float[2] u) { u = Neg (x)  dead = Abs (x) }>
        k = Constant <value = float[2] {1, 2}> ()
        y = local.shift <alpha = 2.0> (t, k)
    }
    <domain: "local", opset_import: ["": 17]>
    shift <alpha> (a, b) => (c) { s = Elu <alpha: float = @alpha> (a)  c = Add (s, b) }
"""


def test_the_digest_is_stable():
    """Tables that an older version saved must keep matching."""
    assert digest(parser.parse_model(_NESTED)) == (
        "sha256:72397be7f483343d2845458125fc5a74d919c03086c97cf5552b119a61cba339"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("v = {3, 4}", "v = {3, 5}"),
        ("Add (x, v)", "Sub (x, v)"),
        ("u = Neg (x)", "u = Exp (x)"),
        ("value = float[2] {1, 2}", "value = float[2] {1, 3}"),
        ("alpha = 2.0", "alpha = 3.0"),
        ("c = Add (s, b)", "c = Add (b, s)"),
        ("float = @alpha", "float = 2.0"),
        ("then_branch", "else_brancH"),
        ("Neg (x)  dead = Abs (x) }>", "Neg (x) }>\n dead = Abs (x)"),
    ],
)
def test_subgraphs_constants_and_functions_count(old, new):
    assert _NESTED.count(old) == 1
    before = parser.parse_model(_NESTED)
    assert digest(parser.parse_model(_NESTED.replace(old, new))) != digest(before)


def test_every_kind_of_attribute_counts():
    def model(**attributes):
        node = helper.make_node("Custom", ["x"], ["y"], domain="d", **attributes)
        info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
        graph = helper.make_graph([node], "g", [info], [out])
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def tensor(value):
        return numpy_helper.from_array(np.array([value], np.float32), "t")

    def text(value):
        return helper.make_tensor("t", TensorProto.STRING, [1], [value])

    def kind(elem):
        return helper.make_tensor_type_proto(elem, [1])

    def body(op):
        out = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])
        return helper.make_graph([helper.make_node(op, ["x"], ["z"])], "b", [], [out])

    values = [
        1,
        2,
        1.0,
        float("nan"),
        "1",
        "é",
        [1],
        [1, 2],
        [1.0, 2.0],
        ["1", "2"],
        tensor(1),
        tensor(2),
        text(b"a"),
        text(b"b"),
        [tensor(1)],
        [tensor(1), tensor(2)],
        kind(1),
        kind(2),
        [kind(1)],
        body("Abs"),
        body("Neg"),
        [body("Abs")],
        [body("Abs"), body("Neg")],
    ]
    digests = [digest(model(value=value)) for value in values]
    assert len(set(digests)) == len(values)
    assert digests == [digest(model(value=value)) for value in values]


# External data


def test_the_folder_does_not_count(tmp_path, external_cnn):
    path = external_cnn(tmp_path / "a")
    before = digest(path)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert digest(tmp_path / "b" / "net.onnx") == before
    path.rename(tmp_path / "a" / "renamed.onnx")
    assert digest(tmp_path / "a" / "renamed.onnx") == before


def test_the_name_of_the_data_file_does_not_count(tmp_path, external_cnn):
    before = digest(external_cnn(tmp_path / "a"))
    path = external_cnn(tmp_path / "b", location="moved.bin")
    shutil.copy(tmp_path / "b" / "net.bin", tmp_path / "b" / "moved.bin")
    assert digest(path) == before


def test_an_ir_model_with_external_data_has_the_digest_of_its_file(tmp_path, external_cnn):
    path = external_cnn(tmp_path)
    loaded = model_io.load(ir.load(path))
    assert loaded.digest == digest(path) and loaded.base_dir == tmp_path


@pytest.mark.parametrize("position", [0, 127, 128, 300, 559])
def test_bytes_of_external_data_count(position, tmp_path, external_cnn):
    path = external_cnn(tmp_path)
    before = digest(path)
    data = bytearray((tmp_path / "net.bin").read_bytes())
    data[position] ^= 1
    (tmp_path / "net.bin").write_bytes(data)
    assert digest(path) != before


def test_tensors_that_overlap_in_one_file_both_count(tmp_path, external_cnn, externalise):
    """A long and a short tensor from the same offset: the long one's end counts too."""
    path = external_cnn(tmp_path, offset=0)
    before = digest(path)
    data = bytearray((tmp_path / "net.bin").read_bytes())
    data[431] ^= 1  # conv_w is 0..431, fc1_w is 0..127
    (tmp_path / "net.bin").write_bytes(data)
    assert digest(path) != before


def test_weights_moved_out_of_the_model_are_another_binding(tmp_path, external_cnn, small_cnn):
    """Inline weights are read in full, external ones sampled: the two are told apart."""
    path = external_cnn(tmp_path)
    assert onnx.load(path).graph.node == small_cnn().graph.node
    assert digest(path) != digest(small_cnn())
