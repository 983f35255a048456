"""Shapes that the analysis of channels believes, and those it does not."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from lipcompile import model_io
from lipcompile.passes.channel_passage import COMBINED, Shapes
from lipcompile.passes.drop_dead_channels import DropDeadChannels
from tests.passes.compacting import Case, assert_same_outputs, build, claimed, compact

DEAD = {"W2": (0, [1, 3])}
GATED = Case(
    "c = MatMul(x, W1) s = Softmax<axis = -1>(g) a = Mul(c, s) y = MatMul(a, W2)",
    DEAD,
    {"c": (1, 3)},
    "float[N,5] x, float[N,4] g",
)
MASKED = Case(
    "c = MatMul(x, W1) s = Sigmoid(g) a = Mul(c, s) y = MatMul(a, W2)",
    DEAD,
    {"c": (1, 3)},
    "float[N,5] x, float[N,1] g",
)


def stating(case: Case, name: str, *dims: int | str | None) -> onnx.ModelProto:
    """The case's model, which says that `name` has shape `dims`."""
    proto = build(case)
    proto.graph.value_info.append(helper.make_tensor_value_info(name, 1, dims))
    return proto


def shape(proto: onnx.ModelProto, name: str) -> object:
    model = model_io.load(proto).graph_ir
    values = {value.name: value for node in model.graph for value in node.outputs}
    return Shapes(model).of(values[name])


@pytest.mark.parametrize(
    ("dims", "known"),
    [
        (("N", 4), (None, 4)),
        ((2, 4), (2, 4)),  # more than inference knows
        (("N", None), (None, 4)),  # less
        (("N", 1), None),
        (("N", 1, 4), None),
    ],
)
def test_a_statement_adds_to_inference_and_never_overrules_it(
    dims: tuple[int | str | None, ...], known: object
) -> None:
    assert shape(stating(GATED, "s", *dims), "s") == known


def test_a_statement_is_taken_where_nothing_is_inferred() -> None:
    unknown = Case("s = com.microsoft.Unheard(x) y = MatMul(s, W2)", {}, {})
    assert shape(stating(unknown, "s", "N", 7), "s") == (None, 7)
    assert shape(build(unknown), "s") is None


def test_a_stale_shape_does_not_make_an_operand_a_mask() -> None:
    """[N, 1] is stated where [N, 4] is computed: the product needs all four channels."""
    before = stating(GATED, "s", "N", 1)
    loaded = model_io.load(before)  # `compact` would check the stale shape with ONNX
    report = DropDeadChannels()(loaded.graph_ir)
    assert report.dropped == ()
    assert [row.reason for row in report.kept] == [COMBINED]
    assert_same_outputs(before, model_io.render(loaded.proto, loaded.graph_ir))


def test_a_true_mask_still_lets_channels_go() -> None:
    before = stating(MASKED, "s", "N", 1)
    after, report = compact(before)
    assert claimed(report) == MASKED.dropped
    assert_same_outputs(before, after)
