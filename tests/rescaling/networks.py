"""Random positively homogeneous networks, and small ones with one feature each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.parser
from onnx import helper, numpy_helper

from lipcompile import model_io
from lipcompile.labelled.normalisation import Normalisation
from lipcompile.labelled.pixel_domain import PixelDomain

PIXELS = PixelDomain(Normalisation(), (3, 8, 8))


@dataclass
class Drawn:
    """A network that is being drawn: `x` is its last tensor, of `channels` times `side`^2."""

    rng: np.random.Generator
    opset: int
    x: str = "x"
    channels: int = 3
    side: int = 8
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def weight(self, *shape: int, scale: float = 1.0, least: float | None = None) -> str:
        array = self.rng.normal(size=shape) * scale
        if least is not None:
            array = np.abs(array) + least
        name = f"w{len(self.weights)}"
        tensor = numpy_helper.from_array(array.astype(np.float32), name)
        self.weights.append(tensor)
        return name

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        node = helper.make_node(op, inputs, [name], f"{op}_{name}", **attributes)
        self.nodes.append(node)
        return name

    def conv(self, x: str, channels: int, kernel: int = 3, pad: int | None = None) -> str:
        pad = kernel // 2 if pad is None else pad
        shape = (channels, self.channels, kernel, kernel)
        spread = 2.0 ** self.rng.integers(-3, 4) / np.sqrt(self.channels * kernel**2)
        inputs = [x, self.weight(*shape, scale=spread)]
        if self.rng.random() < 0.7:
            inputs.append(self.weight(channels))
        return self.add("Conv", *inputs, pads=[pad] * 4)

    def normalised(self, x: str, channels: int) -> str:
        rows = [self.weight(channels, least=0.2), self.weight(channels), self.weight(channels)]
        rows.append(self.weight(channels, least=0.1))
        return self.add("BatchNormalization", x, *rows)

    def proto(self, output: str = "y", classes: int = 4) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "drawn",
            [helper.make_tensor_value_info("x", 1, ["N", 3, 8, 8])],
            [helper.make_tensor_value_info(output, 1, ["N", classes])],
            self.weights,
        )
        opset = helper.make_opsetid("", self.opset)
        return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def _chain(net: Drawn) -> None:
    net.x = net.add("Relu", net.conv(net.x, 4))
    net.channels = 4


def _normal(net: Drawn) -> None:
    y = net.normalised(net.conv(net.x, 5), 5)
    net.x, net.channels = net.add("LeakyRelu", y, alpha=0.2), 5


def _identity_skip(net: Drawn) -> None:
    y = net.add("Relu", net.conv(net.x, net.channels))
    y = net.normalised(net.conv(y, net.channels), net.channels)
    net.x = net.add("Relu", net.add("Add", y, net.x))


def _projected_skip(net: Drawn) -> None:
    y, skip = net.conv(net.x, 6), net.conv(net.x, 6, kernel=1)
    net.x, net.channels = net.add("Abs", net.add("Sub", y, skip)), 6


def _concat(net: Drawn) -> None:
    parts = [net.conv(net.x, 2), net.conv(net.x, 3, kernel=1), net.x]
    net.x, net.channels = net.add("Concat", *parts, axis=1), net.channels + 5


def _padded(net: Drawn) -> None:
    pads = [0, 0, 1, 1, 0, 0, 1, 1]
    if net.opset < 11:
        y = net.add("Pad", net.x, pads=pads)
    else:
        name = f"w{len(net.weights)}"
        net.weights.append(numpy_helper.from_array(np.array(pads), name))
        y = net.add("Pad", net.x, name)
    net.x, net.channels = net.conv(y, 4, pad=0), 4


def _max_pool(net: Drawn) -> None:
    if net.side >= 4:
        net.x = net.add("MaxPool", net.x, kernel_shape=[2, 2], strides=[2, 2])
        net.side //= 2


def _average_pool(net: Drawn) -> None:
    if net.side >= 4:
        net.x = net.add("AveragePool", net.x, kernel_shape=[2, 2], strides=[2, 2])
        net.side //= 2


def _constants(net: Drawn) -> None:
    y = net.add("Mul", net.x, net.weight(net.channels, 1, 1, least=0.3))
    y = net.add("Div", net.add("Sub", y, net.weight(1)), net.weight(1, least=0.5))
    net.x = net.add("Relu", y)


BLOCKS: tuple[Callable[[Drawn], None], ...] = (
    _chain,
    _normal,
    _identity_skip,
    _projected_skip,
    _concat,
    _padded,
    _max_pool,
    _average_pool,
    _constants,
)
OPSETS = (9, 11, 13, 17)


def drawn_network(seed: int) -> onnx.ModelProto:
    """A network of some of the blocks, with 4 classes; the same for a seed."""
    rng = np.random.default_rng(seed)
    net = Drawn(rng, OPSETS[seed % len(OPSETS)])
    for index in rng.integers(0, len(BLOCKS), 1 + int(rng.integers(4))):
        BLOCKS[index](net)
    if rng.random() < 0.5:
        net.x, net.side = net.add("GlobalAveragePool", net.x), 1
    net.x = net.add("Flatten", net.x)
    width = net.channels * net.side**2
    net.x = net.add("Relu", net.add("Gemm", net.x, net.weight(width, 6), net.weight(6)))
    if rng.random() < 0.5:
        net.x = net.add("Gemm", net.x, net.weight(4, 6), net.weight(4), transB=1)
    else:
        net.x = net.add("Add", net.add("MatMul", net.x, net.weight(6, 4)), net.weight(4))
    net.nodes[-1].output[0] = "y"
    return net.proto()


ARRAYS = {
    "K": (4, 3, 3, 3),
    "K2": (4, 4, 3, 3),
    "B": (4,),
    "F": (4, 4),
    "W": (256, 4),
    "WT": (4, 256),
    "P": (4,),
}


def text_network(
    body: str,
    outputs: str = "float[N,4] y",
    opset: int = 17,
    ir_version: int = 8,
    arrays: dict[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """A network on [N, 3, 8, 8] in ONNX's text form; capital letters are initializers."""
    model = onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["": {opset}]> '
        f"g (float[N,3,8,8] x) => ({outputs}) {{ {body} }}"
    )
    rng = np.random.default_rng(0)
    known = {name: rng.normal(size=shape).astype(np.float32) for name, shape in ARRAYS.items()}
    known["P"] = np.abs(known["P"]) + 0.5
    known |= {"ONE": np.array(1, np.float32), "ZERO": np.array(0, np.float32)}
    known |= arrays or {}
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    for name, array in known.items():
        if name in words:
            model.graph.initializer.append(numpy_helper.from_array(array, name))
            if ir_version < 4:
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                info = helper.make_tensor_value_info(name, kind, array.shape)
                model.graph.input.append(info)
    for node in model.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    return model


def product(model: onnx.ModelProto, scores: str = "y") -> float:
    """Of the model as it stands."""
    return PIXELS.bounds(model_io.load(model), scores).product
