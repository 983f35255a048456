"""The network as an ONNX file: built with fresh weights, read as layers, written again.

    image [N, 1, 28, 28] -> Conv 4x4 /2 -> Relu -> Conv 4x4 /2 -> Relu -> Flatten -> Gemm
    -> Relu -> Gemm -> logits [N, 10]

It is a chain, so that LipLT applies as it stands, and it is small: its layers can be unrolled
to dense matrices, whose products have exact norms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

SHAPE, CLASSES = (1, 28, 28), 10
CHANNELS, HIDDEN = (16, 32), (64,)
KERNEL, STRIDE, PAD = 4, 2, 1  # of every convolution: it halves height and width
_OPSET, _IR = 17, 8


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer of the chain, between two activations.

    Attributes:
        weight: Name of its weight: [out, in, k, k] of a Conv, [out, in] of a Gemm (transB).
        inputs: Shape of what it reads, without the batch.
        outputs: Shape of what it gives.
        stride: Of a Conv; 0 says that it is a Gemm.
        pad: Of a Conv, on every side.
    """

    weight: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    stride: int = 0
    pad: int = 0


def build(
    seed: int,
    shape: tuple[int, int, int] = SHAPE,
    channels: Sequence[int] = CHANNELS,
    hidden: Sequence[int] = HIDDEN,
    classes: int = CLASSES,
) -> onnx.ModelProto:
    """The network with fresh weights: orthogonal rows or columns, biases 0.

    Args:
        seed: Of the weights.
        shape: Channels, height and width of an image; each convolution halves the last two.
        channels: Output channels of the convolutions.
        hidden: Outputs of the Gemms before the last.
        classes: Logits.
    """
    generator = torch.Generator().manual_seed(seed)
    nodes, weights, fed, (depth, height, width) = [], [], "image", shape

    def add(op: str, name: str, weight: torch.Tensor, **attributes: object) -> str:
        torch.nn.init.orthogonal_(weight, generator=generator)
        bias = np.zeros(len(weight), np.float32)
        weights.append(numpy_helper.from_array(weight.numpy(), f"{name}.weight"))
        weights.append(numpy_helper.from_array(bias, f"{name}.bias"))
        operands = [fed, f"{name}.weight", f"{name}.bias"]
        nodes.append(helper.make_node(op, operands, [name], name, **attributes))
        return name

    def relu(name: str) -> str:
        nodes.append(helper.make_node("Relu", [name], [f"{name}.relu"], f"{name}.relu"))
        return f"{name}.relu"

    for i, out in enumerate(channels, start=1):
        weight = torch.empty(out, depth, KERNEL, KERNEL)
        pads, strides = [PAD] * 4, [STRIDE] * 2
        fed = relu(add("Conv", f"conv{i}", weight, strides=strides, pads=pads))
        depth, height, width = out, height // STRIDE, width // STRIDE
    nodes.append(helper.make_node("Flatten", [fed], ["flat"], "flat"))
    fed, size = "flat", depth * height * width
    for i, out in enumerate(hidden, start=1):
        fed, size = relu(add("Gemm", f"fc{i}", torch.empty(out, size), transB=1)), out
    add("Gemm", "logits", torch.empty(classes, size), transB=1)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *shape])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])
    graph = helper.make_graph(nodes, "train_certified", [image], [logits], weights)
    opset = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=_IR)
    onnx.checker.check_model(model, full_check=True)
    return model


def layers_of(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """The linear layers of a network that `build` made, in the order of the chain."""
    dims = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    shape: tuple[int, ...] = tuple(
        axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim[1:]
    )
    layers = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        out, weight = dims[node.input[1]][0], node.input[1]
        if node.op_type == "Conv":
            given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            stride, pad, kernel = given["strides"][0], given["pads"][0], dims[weight][2]
            height, width = ((n + 2 * pad - kernel) // stride + 1 for n in shape[1:])
            layers.append(Layer(weight, shape, (out, height, width), stride, pad))
        else:
            layers.append(Layer(weight, shape, (out,)))
        shape = layers[-1].outputs
    assert math.prod(shape) == layers[-1].outputs[0], "the last layer gives the logits"
    return tuple(layers)


def write_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Writes weights into the ONNX file they came from; nothing else of it changes.

    Args:
        path: The file; it is replaced.
        weights: By the initializer's name, in the shape and type that it has.
    """
    model = onnx.load(path)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, weight in weights.items():
        fresh = numpy_helper.from_array(weight.detach().numpy(), name)
        if (fresh.dims, fresh.data_type) != (stored[name].dims, stored[name].data_type):
            raise ValueError(
                f"'{name}' is {list(fresh.dims)} of type {fresh.data_type}, and the file has "
                f"{list(stored[name].dims)} of type {stored[name].data_type}: train the view "
                "of this file"
            )
        stored[name].CopyFrom(fresh)
    onnx.save(model, path)
