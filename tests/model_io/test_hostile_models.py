"""Models that no exporter writes: refused with one message, or read in bounded memory."""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, parser

from lipcompile import inspect, model_io
from lipcompile.errors import DataError, ModelError
from lipcompile.model_io import checking

_OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
_HEAD = '<ir_version: 8, opset_import: ["": 17]> g (float[2,2] x, bool c) => (float[2,2] y)'
_WEIGHT = "<float[2,2] w = {1, 2, 3, 4}>"


def graph(body: str) -> onnx.ModelProto:
    return parser.parse_model(f"{_HEAD} {_WEIGHT} {{ {body} }}")


# Cycles


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("a = Flatten (a) y = MatMul (a, w)", id="reads-its-own-output"),
        pytest.param("a = Identity (b) b = Identity (a) y = MatMul (a, w)", id="two-nodes"),
        pytest.param(
            "t = Relu (x) a = Add (t, d) b = Relu (a) d = MatMul (b, w) y = Relu (d)",
            id="behind-a-good-start",
        ),
        pytest.param(
            "a = If (c) <then_branch = t () => (float[2,2] u) { u = MatMul (a, w) }, "
            "else_branch = e () => (float[2,2] v) { v = Identity (x) }> y = MatMul (a, w)",
            id="through-a-subgraph",
        ),
        pytest.param(
            "a = If (c) <then_branch = t () => (float[2,2] u) { p = Relu (u) u = Relu (p) }, "
            "else_branch = e () => (float[2,2] v) { v = Identity (x) }> y = MatMul (a, w)",
            id="inside-a-subgraph",
        ),
    ],
)
def test_a_cycle_is_refused(body: str) -> None:
    with pytest.raises(ModelError, match="'g' has a cycle: node '.*' depends on its own"):
        model_io.load(graph(body))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("y = MatMul (b, w) b = Relu (a) a = Relu (x)", id="reversed"),
        pytest.param(
            "y = If (c) <then_branch = t () => (float[2,2] u) { u = MatMul (b, w) }, "
            "else_branch = e () => (float[2,2] v) { v = Identity (b) }> b = Relu (x)",
            id="captured-later",
        ),
        pytest.param(
            "y = If (c) <then_branch = t () => (float[2,2] y) { y = MatMul (x, w) }, "
            "else_branch = e () => (float[2,2] y) { y = Identity (x) }>",
            id="a-branch-that-names-its-output-alike",
        ),
    ],
)
def test_any_order_is_no_cycle(body: str) -> None:
    assert len(model_io.load(graph(body)).graph_ir.graph) >= 1


def test_a_cycle_in_a_function_is_refused() -> None:
    model = functions(1, 1)
    model.functions[0].node[0].input[0] = "c"
    with pytest.raises(ModelError, match="has a cycle: node 'MatMul'"):
        model_io.load(model)


# Functions


def functions(depth: int, calls: int) -> onnx.ModelProto:
    """f0 calls f1 `calls` times, f1 calls f2, ... and the last one is a MatMul."""
    made = []
    for i in range(depth):
        nodes = [helper.make_node("MatMul", ["a", "w"], ["c"])]
        if i < depth - 1:
            names = ["a", *(f"t{j}" for j in range(calls - 1)), "c"]
            nodes = [
                helper.make_node(f"f{i + 1}", [before, "w"], [after], domain="local")
                for before, after in itertools.pairwise(names)
            ]
        made.append(helper.make_function("local", f"f{i}", ["a", "w"], ["c"], nodes, _OPSETS))
    inner = helper.make_graph(
        [helper.make_node("f0", ["x", "w"], ["y"], domain="local")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2])],
        [helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1, 2, 3, 4])],
    )
    return helper.make_model(inner, functions=made, opset_imports=_OPSETS, ir_version=8)


def test_functions_of_functions_are_inlined() -> None:
    model = functions(5, 3)
    assert len(model_io.load(model).graph_ir.graph) == 3**4


@pytest.mark.parametrize(
    ("depth", "calls", "message"),
    [
        (40, 2, r"are 1649267441662 nodes once inlined, .*at most 65536"),
        (3000, 1, r"in calls 3000 deep"),
    ],
    ids=["two-of-two-of-two", "a-long-chain"],
)
def test_functions_that_would_fill_the_memory(depth: int, calls: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        model_io.load(functions(depth, calls))


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_functions_that_call_themselves(depth: int) -> None:
    model = functions(depth, 1)
    node = model.functions[-1].node.add()
    node.CopyFrom(helper.make_node("f0", ["a", "w"], ["q"], domain="local"))
    with pytest.raises(ModelError, match="function 'f0' of 'g' calls itself, .* no recursion"):
        model_io.load(model)


def test_a_function_that_is_defined_twice() -> None:
    model = functions(2, 1)
    model.functions.add().CopyFrom(model.functions[1])
    with pytest.raises(ModelError, match="'g' defines a local function more than once"):
        model_io.load(model)


# Nodes that lack what every operator has


def test_a_node_without_outputs_or_inputs_is_refused() -> None:
    model = graph("a = Relu (x) y = MatMul (a, w)")
    model.graph.node[1].ClearField("output")
    with pytest.raises(
        ModelError, match=r"'MatMul' of 'g' has 2 inputs and 0 outputs, and Ma"
    ):
        model_io.load(model)
    model = graph("a = Flatten (x) y = MatMul (a, w)")
    model.graph.node[0].ClearField("input")
    with pytest.raises(ModelError, match=r"'Flatten' of 'g' has 0 inputs and 1 outputs"):
        model_io.load(model)


def test_every_operator_of_onnx_may_have_the_arity_that_it_needs() -> None:
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            inputs, outputs = checking._least_arity("", schema.name)
            assert inputs <= schema.min_input, schema.name
            assert outputs <= max(schema.min_output, 1), schema.name


@pytest.mark.parametrize("damage", ["type", "graph", "reference", "name"])
def test_attributes_that_say_nothing_are_refused(damage: str) -> None:
    model = graph(
        "y = If (c) <then_branch = t () => (float[2,2] u) { u = MatMul (x, w) }, "
        "else_branch = e () => (float[2,2] v) { v = Identity (x) }>"
    )
    attribute = model.graph.node[0].attribute[0]
    data = model.SerializeToString()
    if damage == "type":
        attribute.ClearField("type")
        data = model.SerializeToString()
    elif damage == "reference":
        attribute.ref_attr_name = "then"
        data = model.SerializeToString()
    elif damage == "graph":
        attribute.ClearField("g")
        data = model.SerializeToString()
    else:
        data = data.replace(b"then_branch", b"then_br\xffnch")
    damaged = onnx.ModelProto.FromString(data)
    with pytest.raises(ModelError, match="attribute '.*' of node 'If' in 'g' has no type"):
        model_io.load(damaged)


def test_a_node_that_cannot_be_written_again_is_a_model_error() -> None:
    """An inlined function is written anew, and its text is not UTF-8."""
    model = functions(1, 1)
    model.graph.node[0].doc_string = "DOC"
    model.functions[0].node[0].doc_string = "DOC"
    data = model.SerializeToString().replace(b"DOC", b"\xff\xfe\xfd")
    with pytest.raises(ModelError, match="must be edited, and holds what cannot be written"):
        model_io.load(onnx.ModelProto.FromString(data))


def test_a_weight_whose_numbers_are_of_another_type() -> None:
    model = graph("a = Relu (x) y = MatMul (a, w)")
    weight = model.graph.initializer[0]
    weight.ClearField("float_data")
    weight.int32_data.extend([1, 2, 3, 4])
    with pytest.raises(ModelError, match="weight that cannot be read .its numbers are not of"):
        model_io.load(model)


# Sizes that are claimed


@pytest.mark.parametrize("dims", [[2**30, 2**30], [2**62, 4, 4, 4], [-1, 8], [0]])
def test_dims_that_no_memory_holds_are_not_believed(dims: list[int]) -> None:
    model = graph("a = Relu (x) y = MatMul (a, w)")
    weight = model.graph.initializer[0]
    del weight.dims[:]
    weight.dims.extend(dims)
    constant = helper.make_node("Constant", [], ["k"])
    constant.attribute.append(onnx.AttributeProto(name="value", type=4, t=weight))
    model.graph.node.insert(0, constant)
    try:
        assert len(inspect(model).rows) == 1
    except ModelError as error:
        assert "weight that cannot be read" in str(error)


@pytest.mark.parametrize("axis", [0, 1])
def test_no_random_data_is_drawn_for_a_giant_input(axis: int) -> None:
    from lipcompile import Selector, harden

    model = graph("a = Relu (x) y = MatMul (a, w)")
    model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 2**40
    with pytest.raises(DataError, match=r"takes 2,199,023,255,552 numbers at once, and at"):
        harden(model, "random:1", selector=Selector("all"))


# The peak of the process itself: `ru_maxrss` of a child begins with that of its parent.
_BIG = """
import sys
from lipcompile import inspect
rows = len(inspect(sys.argv[1]).rows)
print(rows, open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads its peak memory from /proc")
def test_many_inputs_and_long_names_are_read_in_bounded_memory(tmp_path: Path) -> None:
    model = graph("a = Relu (x) y = MatMul (a, w)")
    for i in range(20_000):
        model.graph.input.append(helper.make_tensor_value_info(f"i{i}", 1, [1]))
    model.graph.node[1].name = "n" * 4_000_000
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    done = subprocess.run(
        [sys.executable, "-c", _BIG, str(tmp_path / "m.onnx")],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)),
    )
    rows, peak = done.stdout.split()
    assert rows == "1"
    assert int(peak) < 400_000, "kilobytes"


# Names


def test_names_do_not_steer_the_terminal(tmp_path: Path, capfd) -> None:
    from lipcompile.cli import main

    model = graph("a = Relu (x) b = MatMul (a, w) d = MatMul (b, w) y = MatMul (d, w)")
    names = ["\x1b[2J\x1b]0;pwned\x07", "ok\nFAILED: nothing\r::error::x", "\u202egpj.exe"]
    for node, name in zip(model.graph.node[1:], names, strict=True):
        node.name = name
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    for arguments in (
        ["inspect", str(path), "--rule", "all"],
        ["inspect", str(path), "--include", "nothing of this name"],
        ["harden", str(path), "--calib", "random:1", "--rule", "all", "--dry-run"],
        ["harden", str(path), "--calib", "\x1b[2J.npy"],
        ["inspect", str(path), "\x1b[2J"],
    ):
        main.run(arguments)
        out, err = capfd.readouterr()
        assert out + err
        for character in ("\x1b", "\x07", "\r", "\u202e"):
            assert character not in out + err, arguments
        assert not any(line.startswith("FAILED") for line in (out + err).splitlines())
    main.run(["inspect", str(path), "--rule", "all", "--format", "json"])
    found = [row["layer"] for row in json.loads(capfd.readouterr().out)["layers"]]
    assert found == names, "JSON tells names as they are"


def test_metadata_that_is_not_utf8_is_read(tmp_path: Path, capfd) -> None:
    from lipcompile.cli import main

    model = graph("a = Relu (x) y = MatMul (a, w)")
    model.metadata_props.add(key="KEY", value="VALUE")
    model.metadata_props.add(key="lipcompile.KEY", value="[]")
    data = model.SerializeToString().replace(b"KEY", b"\xffEY").replace(b"VALUE", b"\xfeALUE")
    (tmp_path / "m.onnx").write_bytes(data)
    loaded = model_io.load(tmp_path / "m.onnx")
    assert loaded.metadata == {"\ufffdEY": "\ufffdALUE", "lipcompile.\ufffdEY": "[]"}
    for arguments in (["inspect"], ["harden", "--calib", "random:1", "--dry-run"], ["strip"]):
        code = main.run([arguments[0], str(tmp_path / "m.onnx"), *arguments[1:]])
        err = capfd.readouterr().err
        assert code in (0, 2), err
        assert "a defect of LipCompile" not in err
