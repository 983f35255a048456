"""A fixed batch is lifted out of Reshapes, and only out of these."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lipcompile import model_io
from lipcompile.passes.lift_batch import lift_batch

LIFTED = {
    "all lengths given": ([2, 6], [-1, 6]),
    "one inferred": ([2, -1], [0, -1]),
    "one inferred, one kept": ([2, 0, -1], [0, 0, -1]),
}
LEFT = {
    "another length first": ("y = Reshape (x, S)", [3, 4]),
    "inferred already": ("y = Reshape (x, S)", [-1, 6]),
    "0 means none": ("y = Reshape <allowzero = 1> (x, S)", [2, 6]),
    "of a constant": ("r = Reshape (K, S)  y = Add (x, r)", [2, 1, 6]),
    "no Reshape": ("y = Expand (x, S)", [2, 2, 6]),
}


def load(body: str, shape: list[int], batch: str = "2") -> model_io.LoadedModel:
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[{batch},1,6] x) => (float y) '
        f"{{ {body} }}"
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    arrays = {"S": np.array(shape), "K": np.ones(12, np.float32)}
    used = {name for node in proto.graph.node for name in node.input}
    for name in sorted(used & set(arrays)):
        proto.graph.initializer.append(numpy_helper.from_array(arrays[name], name))
    return model_io.load(proto)


@pytest.mark.parametrize("name", LIFTED)
def test_lifted(name: str) -> None:
    before, after = LIFTED[name]
    model = load("y = Reshape (x, S)", before)
    bytes_before = model.proto.SerializeToString(deterministic=True)
    proto = lift_batch(model)
    constant, reshape = proto.graph.node
    assert reshape.input[1] == constant.output[0]
    assert numpy_helper.to_array(constant.attribute[0].t).tolist() == after
    assert numpy_helper.to_array(proto.graph.initializer[0]).tolist() == before, "shared"
    assert model.proto.SerializeToString(deterministic=True) == bytes_before


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    assert lift_batch(load(*LEFT[name])) is None


def test_dynamic_batch_has_nothing_to_lift() -> None:
    assert lift_batch(load("y = Reshape (x, S)", [2, 6], "N")) is None
