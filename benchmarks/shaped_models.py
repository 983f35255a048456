"""ResNet-50 and ViT-B/16 as torch exports them, with random weights: shapes for the clock.

    ResNet-50 v1.5 (stride in the 3x3 convolution), batch norms folded, 25.5 M weights
    ViT-B/16, attention decomposed into MatMul and Softmax, Gelu by Erf, 86.6 M weights

Opset 17, images of 224 x 224, dynamic batch, float32, initializers. Weights are scaled so that
activations stay near 1, and are the same each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 1000


class Builder:
    """Nodes and random initializers of one graph."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []

    def __call__(self, op_type: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node; its output is named after it."""
        output = f"{name}_output_0"
        self._nodes.append(helper.make_node(op_type, inputs, [output], name, **attributes))
        return output

    def split(self, name: str, tensor: str, parts: int) -> list[str]:
        """Adds a Split of axis 0 into equal parts of length 1, without that axis."""
        outputs = [f"{name}_output_{index}" for index in range(parts)]
        sizes = self.constant(f"{name}.sizes", [1] * parts)
        self._nodes.append(helper.make_node("Split", [tensor, sizes], outputs, name, axis=0))
        axis = self.constant(f"{name}.axis", [0])
        return [
            self("Squeeze", f"{name}/Squeeze_{index}", output, axis)
            for index, output in enumerate(outputs)
        ]

    def weight(self, name: str, shape: tuple[int, ...], deviation: float) -> str:
        """Adds a normal initializer around 0."""
        array = self._rng.standard_normal(shape, dtype=np.float32)
        return self._hold(name, array * np.float32(deviation))

    def constant(self, name: str, values: list[int] | np.ndarray) -> str:
        array = np.asarray(values, np.int64) if isinstance(values, list) else values
        return self._hold(name, array)

    def _hold(self, name: str, array: np.ndarray) -> str:
        self._initializers.append(numpy_helper.from_array(array, name))
        return name

    def linear(
        self, name: str, x: str, inputs: int, outputs: int, deviation: float = 0.02
    ) -> str:
        """MatMul and Add, as torch exports nn.Linear on more than two axes."""
        weight = self.weight(f"{name}.weight", (inputs, outputs), deviation)
        bias = self.weight(f"{name}.bias", (outputs,), 0.02)
        return self("Add", f"{name}/Add", bias, self("MatMul", f"{name}/MatMul", x, weight))

    def gemm(self, name: str, x: str, inputs: int) -> str:
        weight = self.weight(f"{name}.weight", (CLASSES, inputs), 0.02)
        bias = self.weight(f"{name}.bias", (CLASSES,), 0.02)
        return self("Gemm", name, x, weight, bias, transB=1)

    def model(self, name: str, output: str) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 224, 224])
        self._nodes.append(helper.make_node("Identity", [output], ["logits"], "output"))
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])
        graph = helper.make_graph(self._nodes, name, [image], [logits], self._initializers)
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def resnet50() -> onnx.ModelProto:
    """ResNet-50 v1.5: 53 convolutions with bias, 49 Relu."""
    add = Builder(seed=50)
    x = _conv(add, "/conv1", "input", (64, 3, 7), stride=2)
    x = add("Relu", "/relu", x)
    x = add("MaxPool", "/maxpool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            name = f"/layer{stage + 1}/layer{stage + 1}.{block}"
            x = _bottleneck(add, name, x, channels, 64 << stage, stride)
            channels = 256 << stage
    x = add("GlobalAveragePool", "/avgpool", x)
    x = add("Flatten", "/Flatten", x, axis=1)
    return add.model("resnet50", add.gemm("/fc", x, channels))


def _bottleneck(
    add: Builder, name: str, x: str, channels: int, width: int, stride: int
) -> str:
    y = add("Relu", f"{name}/relu", _conv(add, f"{name}/conv1", x, (width, channels, 1)))
    y = _conv(add, f"{name}/conv2", y, (width, width, 3), stride)
    y = add("Relu", f"{name}/relu_1", y)
    # A quarter of He's deviation, for sixteen sums to stay near 1.
    y = _conv(add, f"{name}/conv3", y, (4 * width, width, 1), gain=0.25)
    if channels != 4 * width or stride > 1:
        shape = (4 * width, channels, 1)
        x = _conv(add, f"{name}/downsample", x, shape, stride, gain=0.7)
    return add("Relu", f"{name}/relu_2", add("Add", f"{name}/Add", y, x))


def _conv(
    add: Builder,
    name: str,
    x: str,
    shape: tuple[int, int, int],
    stride: int = 1,
    gain: float = 1.0,
) -> str:
    outputs, inputs, side = shape
    he = gain * math.sqrt(2 / (inputs * side * side))
    weight = add.weight(f"{name}.weight", (outputs, inputs, side, side), he)
    bias = add.weight(f"{name}.bias", (outputs,), 0.1)
    kernel = {"kernel_shape": [side] * 2, "strides": [stride] * 2, "pads": [side // 2] * 4}
    return add("Conv", f"{name}/Conv", x, weight, bias, **kernel)


WIDTH, HEADS, TOKENS, PATCH = 768, 12, 197, 16


def vit_b16() -> onnx.ModelProto:
    """ViT-B/16: 12 blocks of width 768, 12 heads, a class token and 196 patches."""
    add = Builder(seed=16)
    x = _embed(add)
    for block in range(12):
        name = f"/blocks/blocks.{block}"
        y = _attention(add, f"{name}/attn", _norm(add, f"{name}/norm1", x))
        x = add("Add", f"{name}/Add", x, y)
        y = _mlp(add, f"{name}/mlp", _norm(add, f"{name}/norm2", x))
        x = add("Add", f"{name}/Add_1", x, y)
    first = add.constant("first", np.array(0, np.int64))
    token = add("Gather", "/Gather", _norm(add, "/norm", x), first, axis=1)
    return add.model("vit_b16", add.gemm("/head", token, WIDTH))


def _embed(add: Builder) -> str:
    weight = add.weight("/patch_embed.weight", (WIDTH, 3, PATCH, PATCH), 0.02)
    bias = add.weight("/patch_embed.bias", (WIDTH,), 0.02)
    kernel = {"kernel_shape": [PATCH] * 2, "strides": [PATCH] * 2}
    x = add("Conv", "/patch_embed/Conv", "input", weight, bias, **kernel)
    x = add("Reshape", "/Reshape", x, add.constant("flat", [0, WIDTH, TOKENS - 1]))
    x = add("Transpose", "/Transpose", x, perm=[0, 2, 1])
    batch = add("Shape", "/Shape", "input", start=0, end=1)
    shape = add("Concat", "/Concat", batch, add.constant("one_token", [1, WIDTH]), axis=0)
    token = add("Expand", "/Expand", add.weight("cls_token", (1, 1, WIDTH), 0.02), shape)
    x = add("Concat", "/Concat_1", token, x, axis=1)
    return add("Add", "/Add", x, add.weight("pos_embed", (1, TOKENS, WIDTH), 0.02))


def _norm(add: Builder, name: str, x: str) -> str:
    ones, zeros = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    scale = add.constant(f"{name}.weight", ones)
    bias = add.constant(f"{name}.bias", zeros)
    return add("LayerNormalization", f"{name}/LayerNormalization", x, scale, bias, axis=-1)


def _attention(add: Builder, name: str, x: str) -> str:
    side = WIDTH // HEADS
    qkv = add.linear(f"{name}/qkv", x, WIDTH, 3 * WIDTH)
    shape = add.constant(f"{name}.heads", [0, TOKENS, 3, HEADS, side])
    qkv = add("Reshape", f"{name}/Reshape", qkv, shape)
    qkv = add("Transpose", f"{name}/Transpose", qkv, perm=[2, 0, 3, 1, 4])
    q, k, v = add.split(f"{name}/Split", qkv, 3)
    scale = add.constant(f"{name}.scale", np.array(side**-0.5, np.float32))
    k = add("Transpose", f"{name}/Transpose_1", k, perm=[0, 1, 3, 2])
    scores = add("MatMul", f"{name}/MatMul", add("Mul", f"{name}/Mul", q, scale), k)
    weights = add("Softmax", f"{name}/Softmax", scores, axis=-1)
    y = add("MatMul", f"{name}/MatMul_1", weights, v)
    y = add("Transpose", f"{name}/Transpose_2", y, perm=[0, 2, 1, 3])
    y = add("Reshape", f"{name}/Reshape_1", y, add.constant(f"{name}.flat", [0, 0, WIDTH]))
    return add.linear(f"{name}/proj", y, WIDTH, WIDTH)


def _mlp(add: Builder, name: str, x: str) -> str:
    """FC1, x * (1 + erf(x / sqrt 2)) / 2, FC2."""
    root, one, half = (
        add.constant(f"{name}.{key}", np.array(value, np.float32))
        for key, value in (("sqrt2", math.sqrt(2)), ("one", 1.0), ("half", 0.5))
    )
    x = add.linear(f"{name}/fc1", x, WIDTH, 4 * WIDTH, deviation=0.05)
    erf = add("Erf", f"{name}/act/Erf", add("Div", f"{name}/act/Div", x, root))
    y = add("Mul", f"{name}/act/Mul", x, add("Add", f"{name}/act/Add", erf, one))
    y = add("Mul", f"{name}/act/Mul_1", y, half)
    return add.linear(f"{name}/fc2", y, 4 * WIDTH, WIDTH)


SHAPED: dict[str, Callable[[], onnx.ModelProto]] = {"resnet50": resnet50, "vit_b16": vit_b16}
