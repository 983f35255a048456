"""Functions are inlined under the names that onnx-ir gives, and quickly."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import InlinePass, inliner

from lipcompile.model_io import inlining
from tests.model_io.test_hostile_models import functions


def nodes(model: ir.Model) -> list[bytes]:
    proto: onnx.ModelProto = ir.to_proto(model)
    return [node.SerializeToString(deterministic=True) for node in proto.graph.node]


@pytest.mark.parametrize(("depth", "calls"), [(1, 1), (3, 1), (6, 2), (4, 4)])
def test_names_are_those_of_onnx_ir(depth: int, calls: int) -> None:
    proto = functions(depth, calls)
    proto.graph.node[0].name = "t0_3"
    for function in proto.functions:
        function.node[0].name = "t0"  # of nodes and of values, which do not mix
    ours, theirs = ir.from_proto(proto), ir.from_proto(proto)
    inlining.inline(ours, lambda function: True)
    InlinePass(lambda function: True)(theirs)
    assert nodes(ours) == nodes(theirs)
    assert len(nodes(ours)) == calls ** (depth - 1)


def test_only_wanted_functions_are_inlined_and_nothing_stays_changed() -> None:
    before = inliner._make_unique_name
    model = ir.from_proto(functions(3, 1))
    inlining.inline(model, lambda function: function.name == "f0")
    assert sorted(key[1] for key in model.functions) == ["f1", "f2"]
    with pytest.raises(ValueError, match="planted"):
        inlining.inline(ir.from_proto(functions(2, 1)), _fails)
    assert inliner._make_unique_name is before


def _fails(function: ir.Function) -> bool:
    raise ValueError("planted")


def test_a_version_that_names_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inlining, "_NAMING", "_gone")
    model = ir.from_proto(functions(3, 2))
    inlining.inline(model, lambda function: True)
    assert len(nodes(model)) == 4
    assert not hasattr(inliner, "_gone")


def test_the_search_for_a_free_name_goes_on_where_it_ended() -> None:
    tries = 0

    class Counting(set):
        def __contains__(self, item: object) -> bool:
            nonlocal tries
            tries += 1
            return super().__contains__(item)

    used = Counting()
    with inlining._quick_names():
        found = [inliner._make_unique_name("x", [], used) for _ in range(1000)]
    assert found[:3] == ["x", "x_2", "x_3"]
    assert len(set(found)) == 1000
    assert tries < 2500, "it was 500,000"
