"""Models of any number of nodes or bytes, for the clock and the memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 4  # of a deep model: its nodes count, its numbers do not
SIDE = 4096  # of a heavy model's weights, 64 MiB each
NODES_PER_BLOCK = 25


def deep_model(nodes: int) -> onnx.ModelProto:
    """Transformer blocks of width 4 (attention by MatMul and Softmax, Gelu by Erf), about
    `nodes` operators in all."""
    made = _Deep()
    x = made.linear("stem", "x")
    for block in range(max(nodes // NODES_PER_BLOCK, 1)):
        x = made.block(f"blocks.{block}", x)
    made("MatMul", "head", x, made.weight("head.weight"), output="y")
    shape = ["N", 3, WIDTH]
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, shape) for end in "xy"]
    graph = helper.make_graph(made.nodes, "deep", ends[:1], ends[1:], made.initializers)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


class _Deep:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        for name, value in (("sqrt2", 2**0.5), ("one", 1.0), ("half", 0.5)):
            self._hold(name, np.array(value, np.float32))
        self._hold("ones", np.ones(WIDTH, np.float32))
        self._hold("zeros", np.zeros(WIDTH, np.float32))

    def __call__(self, op: str, name: str, *inputs: str, output: str = "", **rest: Any) -> str:
        output = output or f"{name}/{op}_output_0"
        self.nodes.append(helper.make_node(op, inputs, [output], f"{name}/{op}", **rest))
        return output

    def _hold(self, name: str, array: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str) -> str:
        return self._hold(name, np.eye(WIDTH, dtype=np.float32) / 2)

    def linear(self, name: str, x: str) -> str:
        bias = self._hold(f"{name}.bias", np.zeros(WIDTH, np.float32))
        return self("Add", name, self("MatMul", name, x, self.weight(f"{name}.weight")), bias)

    def block(self, name: str, x: str) -> str:
        y = self("LayerNormalization", f"{name}/norm1", x, "ones", "zeros")
        query, key, value = (self.linear(f"{name}/{part}", y) for part in "qkv")
        key = self("Transpose", name, key, perm=[0, 2, 1])
        scores = self("MatMul", f"{name}/scores", query, key)
        y = self("MatMul", f"{name}/mix", self("Softmax", name, scores), value)
        x = self("Add", f"{name}/first", x, self.linear(f"{name}/proj", y))
        y = self("LayerNormalization", f"{name}/norm2", x, "ones", "zeros")
        y = self.linear(f"{name}/fc1", y)
        erf = self("Erf", name, self("Div", name, y, "sqrt2"))
        erf = self("Add", f"{name}/erf", erf, "one")
        y = self("Mul", f"{name}/half", self("Mul", name, y, erf), "half")
        return self("Add", f"{name}/second", x, self.linear(f"{name}/fc2", y))


def heavy_model(folder: Path, megabytes: int, sparse: bool = False) -> Path:
    """MatMul of 4096 x 4096 with Relu between, weights in one file of external data.

    Args:
        folder: Where model.onnx and weights.bin go.
        megabytes: Size of weights.bin, in steps of 64 MiB; at least 3, for a layer to harden.
        sparse: Let the file be a hole, which reads as zeros and takes no space.
    """
    size = 4 * SIDE * SIDE
    count = max((megabytes << 20) // size, 3)
    nodes, tensors, x = [], [], "x"
    for layer in range(count):
        tensors.append(_external(f"w{layer}", layer * size, size))
        product = f"m{layer}"
        nodes.append(helper.make_node("MatMul", [x, f"w{layer}"], [product], f"fc{layer}"))
        x = f"r{layer}" if layer < count - 1 else "y"
        nodes.append(helper.make_node("Relu", [product], [x], f"relu{layer}"))
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["N", SIDE]) for end in "xy"]
    graph = helper.make_graph(nodes, "heavy", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    with open(folder / "weights.bin", "wb") as stream:
        if sparse:
            stream.truncate(count * size)
        else:
            stream.writelines(_numbers(count))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _external(name: str, offset: int, length: int) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[SIDE, SIDE])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _numbers(count: int) -> Iterator[bytes]:
    """Random weights; rows move from layer to layer, so that no two are the same."""
    array = np.random.default_rng(0).standard_normal((SIDE, SIDE), dtype=np.float32)
    array *= np.float32(SIDE**-0.5)
    for layer in range(count):
        yield np.roll(array, layer, axis=0).tobytes()
