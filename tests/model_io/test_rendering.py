"""Rendering: only what a pass changed is changed, down to the byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from lipcompile import model_io
from lipcompile.errors import ModelError
from lipcompile.model_io import rendering

_PACK = Path(__file__).parents[3] / "shared" / "pack" / "models"
_LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"
_REAL = sorted([*_PACK.rglob("*.onnx"), *_LIGHT.glob("*.onnx")])


def rendered(loaded, metadata=None):
    return model_io.render(loaded.proto, loaded.graph_ir, metadata)


def as_bytes(proto):
    return proto.SerializeToString(deterministic=True)


@pytest.mark.parametrize("path", _REAL, ids=lambda path: path.stem)
def test_an_untouched_real_model_comes_back_byte_for_byte(path):
    original = onnx.load(path, load_external_data=False)
    loaded = model_io.load(path)
    if not loaded.inlined:
        assert as_bytes(rendered(loaded)) == as_bytes(original)
    assert as_bytes(rendered(loaded)) == as_bytes(loaded.proto)


def full_model():
    """Everything that a rewrite is known to lose: documentation, annotations, unused parts."""
    proto = parser.parse_model(
        """
        <ir_version: 10, opset_import: ["": 17, "unused": 3, "local": 1], domain: "d",
         model_version: 5, doc_string: "model", producer_version: "1",
         metadata_props: ["k": "v"]>
        g (float[batch, 4] x, float[batch, 8] unused) => (float[batch, 4] y)
          <float[4, 4] w = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}, float[1] idle = {1},
           float[batch, 4] t> {
            t = MatMul (x, w)
            r = Relu (t)
            i = Identity (r)
            y = local.act (i)
        }
        <domain: "local", opset_import: ["": 17], doc_string: "kept">
        act (a) => (c) { c = Neg (a) }
    """
    )
    for node in proto.graph.node:
        node.name, node.doc_string = f"n/{node.output[0]}", f"makes {node.output[0]}"
        node.metadata_props.add(key="origin", value="exporter")
    proto.graph.doc_string = "graph"
    proto.graph.metadata_props.add(key="g", value="1")
    note = proto.graph.quantization_annotation.add(tensor_name="t")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="idle")
    proto.training_info.add()
    return proto


def test_an_untouched_model_keeps_everything():
    loaded = model_io.load(full_model())
    assert as_bytes(rendered(loaded)) == as_bytes(full_model())


def test_an_edit_changes_only_its_node():
    loaded = model_io.load(full_model())
    relu = loaded.graph_ir.graph[1]
    relu.op_type = "ThresholdedRelu"
    relu.attributes.add(ir.AttrFloat32("alpha", 0.5))
    result = rendered(loaded)
    want = full_model()
    want.graph.node[1].op_type = "ThresholdedRelu"
    want.graph.node[1].attribute.append(helper.make_attribute("alpha", 0.5))
    assert [as_bytes(n) for n in result.graph.node] == [as_bytes(n) for n in want.graph.node]
    assert as_bytes(result) == as_bytes(want)
    assert loaded.proto == full_model()


def rewire(graph):
    graph[2].replace_input_with(0, graph[0].outputs[0])


def replace_attribute(graph):
    graph[0].attributes.add(ir.AttrInt64s("pads", [0, 0, 0, 0]))


def replace_attribute_after_removing_it(graph):
    """The new attribute may get the address of the old one."""
    del graph[0].attributes["pads"]
    graph[0].attributes.add(ir.AttrInt64s("pads", [0, 0, 0, 0]))


def add_metadata(graph):
    graph[1].metadata_props["lipcompile.form"] = "hard"


def change_operator(graph):
    graph[1].op_type = "Sigmoid"


@pytest.mark.parametrize(
    ("edit", "index"),
    [
        (rewire, 2),
        (replace_attribute, 0),
        (replace_attribute_after_removing_it, 0),
        (add_metadata, 1),
        (change_operator, 1),
    ],
)
def test_every_kind_of_edit_is_seen(edit, index, small_cnn):
    loaded = model_io.load(small_cnn())
    edit(loaded.graph_ir.graph)
    before, after = small_cnn().graph.node, rendered(loaded).graph.node
    changed = [i for i in range(len(before)) if as_bytes(before[i]) != as_bytes(after[i])]
    assert changed == [index]
    assert after[index].name == before[index].name


def test_inserted_and_removed_nodes(small_cnn):
    loaded = model_io.load(small_cnn())
    graph = loaded.graph_ir.graph
    twice = ir.node("Neg", [graph[0].outputs[0]], name="new")
    twice.outputs[0].name = "negative"
    graph.insert_after(graph[0], twice)
    graph[2].replace_input_with(0, twice.outputs[0])
    result = rendered(loaded)
    assert [n.name for n in result.graph.node][:3] == ["Conv_c", "new", "Relu_r"]
    assert list(result.graph.node[2].input) == ["negative"]
    onnx.checker.check_model(result)
    # Planted: without the edit of the Relu the order alone would be wrong.
    assert as_bytes(result.graph.node[2]) != as_bytes(small_cnn().graph.node[1])


def test_a_new_domain_is_imported_once(small_cnn):
    loaded = model_io.load(small_cnn())
    loaded.graph_ir.opset_imports["com.microsoft"] = 1
    result = rendered(loaded)
    assert [(o.domain, o.version) for o in result.opset_import] == [
        ("", 17),
        ("com.microsoft", 1),
    ]


def test_metadata_is_added_and_foreign_metadata_stays(small_cnn):
    loaded = model_io.load(small_cnn())
    first = rendered(loaded, {"lipcompile.c_r": "0.5", "lipcompile.a": "1"})
    assert [(p.key, p.value) for p in first.metadata_props] == [
        ("author", "someone"),
        ("lipcompile.c_r", "0.5"),
        ("lipcompile.a", "1"),
    ]
    again = model_io.load(first)
    second = rendered(again, {"lipcompile.c_r": "0.25"})
    assert {p.key: p.value for p in second.metadata_props} == {
        "author": "someone",
        "lipcompile.a": "1",
        "lipcompile.c_r": "0.25",
    }
    assert len(second.metadata_props) == 3
    del second.metadata_props[:]
    bare = small_cnn()
    del bare.metadata_props[:]
    assert as_bytes(second) == as_bytes(bare)


def tap(small_cnn):
    value = ir.Value(name="tap", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]))
    source = ir.Value(name="r")
    return ir.node("ReduceMax", [source], {"keepdims": 0}, outputs=[value], name="tap/max")


def test_extra_outputs_equal_a_model_built_by_hand(small_cnn):
    by_hand = small_cnn()
    by_hand.graph.node.append(
        helper.make_node("ReduceMax", ["r"], ["tap"], name="tap/max", keepdims=0)
    )
    by_hand.graph.output.append(helper.make_tensor_value_info("tap", TensorProto.FLOAT, []))
    base = small_cnn()
    tapped = onnx.ModelProto.FromString(model_io.with_extra_outputs(base, [tap(small_cnn)]))
    assert tapped == by_hand
    assert base == small_cnn()
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    got = ort.InferenceSession(model_io.with_extra_outputs(base, [tap(small_cnn)]))
    want = ort.InferenceSession(by_hand.SerializeToString())
    for a, b in zip(got.run(None, {"x": x}), want.run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_extra_outputs_is_the_model_itself(small_cnn):
    assert model_io.with_extra_outputs(small_cnn(), []) == as_bytes(small_cnn())


def test_a_model_above_the_limit_of_protobuf_is_refused(small_cnn, monkeypatch):
    size = small_cnn().ByteSize()
    monkeypatch.setattr(rendering, "PROTOBUF_LIMIT", size)
    assert model_io.serialize(small_cnn()) == as_bytes(small_cnn())
    monkeypatch.setattr(rendering, "PROTOBUF_LIMIT", size - 1)
    with pytest.raises(ModelError, match=rf"has {size} bytes in memory.*external data"):
        model_io.serialize(small_cnn())


def test_what_outgrows_protobuf_only_with_its_taps_is_refused(small_cnn, monkeypatch):
    monkeypatch.setattr(rendering, "PROTOBUF_LIMIT", small_cnn().ByteSize())
    assert model_io.with_extra_outputs(small_cnn(), []) == as_bytes(small_cnn())
    with pytest.raises(ModelError, match="with what was added to it.*external data"):
        model_io.with_extra_outputs(small_cnn(), [tap(small_cnn)])


def test_the_checker_is_not_asked_about_what_it_cannot_read(small_cnn, monkeypatch):
    assert model_io.passes_checker(small_cnn())
    monkeypatch.setattr(rendering, "PROTOBUF_LIMIT", small_cnn().ByteSize() - 1)
    with pytest.raises(ModelError, match="save it with external data"):
        model_io.passes_checker(small_cnn())


def test_relocating_reaches_every_external_tensor(tmp_path, small_cnn, externalise):
    proto = parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {
            t = If (c) <
                then_branch = a () => (float[2] u) <float[2] v = {3, 4}> { u = Add (x, v) },
                else_branch = b () => (float[2] u) { u = Identity (x) }>
            s = local.shift (t)
            y = Add (s, w)
        }
        <domain: "local", opset_import: ["": 17]>
        shift (a) => (c) { k = Constant <value = float[2] {5, 6}> ()  c = Add (a, k) }
    """)
    branch = next(a for a in proto.graph.node[0].attribute if a.name == "then_branch").g
    constant = proto.functions[0].node[0].attribute[0].t
    for tensor in (proto.graph.initializer[0], branch.initializer[0], constant):
        externalise(tensor, tmp_path / "w.bin")
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    loaded = model_io.load(path)
    assert sorted(item.offset for item in loaded.external) == [0, 8, 16]
    rendering.relocate(proto, {"w.bin": "other.data"})
    text = str(proto)
    assert text.count("other.data") == 3 and "w.bin" not in text


def test_the_checker_judges_inline_and_external_models(tmp_path, small_cnn, external_cnn):
    external = onnx.load(external_cnn(tmp_path), load_external_data=False)
    before = as_bytes(external)
    for proto in (small_cnn(), external):
        assert model_io.passes_checker(proto)
        proto.graph.node[1].op_type = "NoSuchOperator"
        assert not model_io.passes_checker(proto)
        proto.graph.node[1].op_type = "Relu"
    assert as_bytes(external) == before


def test_inlined_weights_stay_where_they_are():
    """Constants inside an inlined function arrive as nodes, with their values."""
    proto = parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[n, 2] x) => (float[n, 2] y) { y = local.fc (x) }
        <domain: "local", opset_import: ["": 17]>
        fc (a) => (c) { k = Constant <value = float[2, 2] {1, 2, 3, 4}> ()  c = MatMul (a, k) }
    """)
    loaded = model_io.load(proto)
    constant = loaded.proto.graph.node[0].attribute[0].t
    np.testing.assert_array_equal(numpy_helper.to_array(constant), [[1, 2], [3, 4]])
    assert [n.op_type for n in loaded.proto.graph.node] == ["Constant", "MatMul"]


def test_an_edited_node_keeps_whether_an_empty_name_was_written() -> None:
    header = '<ir_version: 8, opset_import: ["" : 17]>'
    text = header + "g (float[1] x) => (float[1] y) { y = Abs(x) }"
    model = onnx.parser.parse_model(text)
    model.graph.node[0].ClearField("name")
    loaded = model_io.load(model)
    node = loaded.graph_ir.graph[0]
    node.metadata_props["key"] = "value"
    (edited,) = model_io.render(loaded.proto, loaded.graph_ir).graph.node
    assert not edited.HasField("name")
    assert not edited.HasField("doc_string")
    assert edited.metadata_props[0].key == "key"
    edited.ClearField("metadata_props")
    assert edited == model.graph.node[0]
