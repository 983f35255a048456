"""Which operators of ONNX Runtime's optimised graph a rewrite adds, and which it loses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from lipcompile.demo import MODEL
from lipcompile.fusions import LostFusions, lost_fusions
from lipcompile.runtime import RuntimeOptions, open_session

OPSETS = '"": 17, "com.microsoft": 1, "com.microsoft.nchwc": 1'


def graph(body: str) -> ir.Model:
    """A graph that is only looked at: x, w and b are its inputs."""
    text = f"<ir_version: 8, opset_import: [{OPSETS}]> g (float[n] x, float[n] w, float[n] b)"
    return ir.from_proto(onnx.parser.parse_model(f"{text} => (float[n] y) {{ {body} }}"))


@pytest.mark.parametrize(
    ("node", "name", "is_made"),
    [
        ("Conv (x, w)", "Conv", False),
        ("com.microsoft.nchwc.Conv (x, w)", "blocked Conv", True),
        (
            'com.microsoft.nchwc.Conv <activation = "Relu"> (x, w, b)',
            "blocked Conv/Relu",
            True,
        ),
        (
            'com.microsoft.nchwc.Conv <activation = "Relu"> (x, w, b, x)',
            "blocked Conv/Relu+sum",
            True,
        ),
        ("com.microsoft.nchwc.Conv (x, w, , x)", "blocked Conv+sum", True),
        ('com.microsoft.FusedConv <activation = "Tanh"> (x, w)', "FusedConv/Tanh", True),
        ('com.microsoft.FusedGemm <activation = "Relu"> (x, w, b)', "FusedGemm/Relu", True),
        ("com.microsoft.nchwc.ReorderInput (x)", "ReorderInput", True),
        ("com.microsoft.BiasGelu (x, b)", "BiasGelu", True),
        ("LayerNormalization (x, w, b)", "LayerNormalization", False),
        ("MatMulInteger (x, w)", "MatMulInteger", True),
    ],
)
def test_operators_are_named_by_what_is_fused_into_them(
    node: str, name: str, is_made: bool
) -> None:
    both = lost_fusions(graph(f"y = {node}"), graph(f"y = {node}"))
    assert both.before == both.after == {name: 1}
    assert (name in both.made) == is_made


def test_equal_graphs_lose_nothing() -> None:
    same = graph("a = Relu (x) y = Relu (a)")
    result = lost_fusions(same, same)
    assert result.lost == result.added == {}
    assert str(result) == "the same operators"


def test_constants_are_no_operators() -> None:
    holding = graph("c = Constant <value_float = 1.0> () y = Relu (x)")
    assert str(lost_fusions(graph("y = Relu (x)"), holding)) == "the same operators"


def test_operators_inside_branches_are_counted() -> None:
    then = "then_branch = t () => (float[n] z) { z = Sigmoid (x) }"
    otherwise = "else_branch = o () => (float[n] z) { z = Relu (x) }"
    branching = graph(f"y = If <{then}, {otherwise}> (w)")
    assert lost_fusions(graph("y = Relu (x)"), branching).added == {"If": 1, "Sigmoid": 1}


def test_what_came_and_what_went() -> None:
    fused = 'com.microsoft.nchwc.Conv <activation = "Relu"> (x, w, b)'
    before = graph(f"a = {fused} c = {fused} d = Erf (c) y = Neg (d)")
    bare = "com.microsoft.nchwc.Conv (x, w, b)"
    after = graph(f"a = {fused} c = {bare} d = Mul (c, c) e = Mul (d, d) y = Neg (e)")
    result = lost_fusions(before, after)
    assert result.lost == {"blocked Conv/Relu": 1}
    assert result.added == {"Mul": 2, "blocked Conv": 1}
    assert str(result) == "+2 Mul, +1 blocked Conv, -1 Erf, blocked Conv/Relu 2 -> 1"
    assert result.to_json() == {
        "before": {"Erf": 1, "Neg": 1, "blocked Conv/Relu": 2},
        "after": {"Mul": 2, "Neg": 1, "blocked Conv": 1, "blocked Conv/Relu": 1},
        "lost": {"blocked Conv/Relu": 1},
        "added": {"Mul": 2, "blocked Conv": 1},
    }


def test_one_name_in_two_domains_is_one_operator() -> None:
    body = "a = QLinearConv (x) y = com.microsoft.QLinearConv (a)"
    assert lost_fusions(graph("y = Relu (x)"), graph(body)).after == {"QLinearConv": 2}


def test_a_fusion_that_is_gone_altogether() -> None:
    result = LostFusions({"FusedGemm/Relu": 2}, {}, frozenset({"FusedGemm/Relu"}))
    assert str(result) == "FusedGemm/Relu 2 -> 0"


def test_onnxruntime_loses_a_fusion(
    small_cnn: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    """Something between a Gemm and its Relu, in a graph that ONNX Runtime itself optimised."""
    model = small_cnn()
    before = optimised(model, tmp_path / "before.onnx")
    two = numpy_helper.from_array(np.array(2, np.float32), "two")
    model.graph.initializer.append(two)
    gemm = next(i for i, n in enumerate(model.graph.node) if n.name == "Gemm_h")
    model.graph.node[gemm].output[0] = "halved"
    between = onnx.helper.make_node("Pow", ["halved", "two"], ["h"])
    model.graph.node.insert(gemm + 1, between)
    result = lost_fusions(before, optimised(model, tmp_path / "after.onnx"))
    assert result.lost == {"FusedGemm/Relu": 1}
    assert {"Gemm": 1, "Relu": 1}.items() <= result.added.items()


def test_large_weights_lie_beside_the_optimised_graph(tmp_path: Path) -> None:
    path = tmp_path / "optimised.onnx"
    open_session(MODEL, RuntimeOptions(), optimized=path)
    assert (tmp_path / "optimised.onnx.data").stat().st_size > path.stat().st_size
    assert ir.load(path).graph.num_nodes() > 0


def optimised(model: onnx.ModelProto, path: Path) -> ir.Model:
    open_session(model.SerializeToString(), RuntimeOptions(), optimized=path)
    return ir.load(path)
