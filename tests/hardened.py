"""Small models with one feature each, as files, and hardened."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

import lipcompile
from lipcompile import HardenResult, Selector

RNG = np.random.default_rng(0)
ARRAYS = {
    "W": RNG.normal(size=(4, 4)).astype(np.float32),
    "V": RNG.normal(size=(4, 4)).astype(np.float32),
    "K": RNG.normal(size=(4, 4, 3, 3)).astype(np.float32),
    "B": RNG.normal(size=4).astype(np.float32),
    "P": RNG.uniform(0.5, 2, size=4).astype(np.float32),
    "H": RNG.normal(size=4).astype(np.float16),
    "QW": RNG.integers(-127, 127, (4, 4)).astype(np.int8),
    "S": np.array(0.02, np.float32),
    "Z": np.array(0, np.int8),
    "U": np.array(0, np.uint8),
    "ZERO": np.array(0, np.float32),
    "SIX": np.array(1.5, np.float32),
    "SHAPE": np.array([-1, 4]),
}


@dataclass(frozen=True)
class Graph:
    """A model in ONNX's text form; capital letters are initializers."""

    body: str
    inputs: str = "float[N,4] x"
    outputs: str = "float[N,4] y"
    opset: int = 17
    ir_version: int = 8
    float_data: tuple[str, ...] = field(default=())

    def proto(self) -> onnx.ModelProto:
        model = onnx.parser.parse_model(
            f'<ir_version: {self.ir_version}, opset_import: ["": {self.opset}], '
            f'producer_name: "maker"> g ({self.inputs}) => ({self.outputs}) {{ {self.body} }}'
        )
        words = set(self.body.replace("(", " ").replace(")", " ").replace(",", " ").split())
        for name, array in ARRAYS.items():
            if name in words:
                tensor = numpy_helper.from_array(array, name)
                if name in self.float_data:
                    tensor.ClearField("raw_data")
                    tensor.float_data.extend(array.ravel().tolist())
                model.graph.initializer.append(tensor)
                if self.ir_version < 4:
                    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
                    info = onnx.helper.make_tensor_value_info(name, kind, array.shape)
                    model.graph.input.append(info)
        onnx.helper.set_model_props(model, {"author": "someone"})
        return model


IMAGES = {"inputs": "float[N,4,6,6] x", "outputs": "float[N,4,2,2] y"}
CONVOLUTIONS = "a = Conv(x, K{bias}) r = Relu(a) y = Conv(r, K)"
GRAPHS = {
    "chain": Graph("h = Tanh(x) a = MatMul(h, W) y = MatMul(a, V)"),
    "relu": Graph("a = MatMul(x, W) h = Relu(a) y = MatMul(h, V)"),
    "residual": Graph("h = Relu(x) a = MatMul(h, W) r = Add(h, a) y = MatMul(r, V)"),
    "hoisted": Graph("h = Relu(x) f = Reshape(h, SHAPE) a = MatMul(f, W) y = MatMul(a, V)"),
    "two readers": Graph(
        "a = Gemm(x, W) h = Relu(a) b = MatMul(h, W) c = MatMul(h, V) y = Add(b, c)"
    ),
    "pooled": Graph(
        "a = Conv(x, K) r = Relu(a) p = MaxPool<kernel_shape = [2, 2]>(r) y = Conv(r, K) "
        "z = Conv<pads = [1, 1, 1, 1]>(p, K)",
        IMAGES["inputs"],
        "float[N,4,2,2] y, float[N,4,3,3] z",
    ),
    "qdq": Graph(
        "h = Relu(x) q = QuantizeLinear(h, S, U) d = DequantizeLinear(q, S, U) "
        "a = MatMul(d, W) y = MatMul(a, V)"
    ),
    "qdq shared with an Add": Graph(
        "h = Relu(x) q = QuantizeLinear(h, S, U) d = DequantizeLinear(q, S, U) "
        "a = MatMul(d, W) r = Add(d, a) y = MatMul(r, V)"
    ),
    "qdq with a DQ per layer": Graph(
        "h = Relu(x) q = QuantizeLinear(h, S, U) d = DequantizeLinear(q, S, U) "
        "e = DequantizeLinear(q, S, U) a = MatMul(d, W) b = MatMul(e, V) y = Add(a, b)"
    ),
    "qdq with a DQ in front of each layer": Graph(
        "h = Relu(x) q = QuantizeLinear(h, S, U) e = DequantizeLinear(q, S, U) "
        "b = MatMul(e, V) d = DequantizeLinear(q, S, U) a = MatMul(d, W) y = Add(a, b)"
    ),
    "ir version 3": Graph(CONVOLUTIONS.format(bias=""), **IMAGES, opset=8, ir_version=3),
    "opset 10": Graph(CONVOLUTIONS.format(bias=", B"), **IMAGES, opset=10),
    "bias": Graph(CONVOLUTIONS.format(bias=", B"), **IMAGES),
    "no bias": Graph(CONVOLUTIONS.format(bias=""), **IMAGES),
    "shared bias": Graph(
        "a = Conv(x, K, B) r = Relu(a) y = Conv<pads = [0, 0, 0, 0]>(r, K, B)", **IMAGES
    ),
    "float16 bias behind a Cast": Graph(
        "b = Cast<to = 1>(H) a = Conv(x, K, b) r = Relu(a) y = Conv(r, K)", **IMAGES
    ),
    "bias of a Gemm with beta": Graph(
        "a = Gemm<beta = 2.0>(x, W, B) h = Relu(a) y = MatMul(h, V)"
    ),
    "bias of a BatchNormalization": Graph(
        "c = Conv(x, K) a = BatchNormalization(c, P, B, B, P) r = Relu(a) y = Conv(r, K)",
        **IMAGES,
    ),
    "bias in float16": Graph(
        "w = Cast<to = 10>(W) a = Gemm(x, w, H) h = Relu(a) y = MatMul(h, w)",
        "float16[N,4] x",
        "float16[N,4] y",
    ),
    "bias of an Add": Graph("m = MatMul(x, W) a = Add(m, B) h = Relu(a) y = MatMul(h, V)"),
    "bias in a residual sum": Graph(
        "m = MatMul(x, W) g = Gemm(x, V, B) s = Add(m, g) h = Relu(s) y = MatMul(h, V)"
    ),
    "clip": Graph("a = Gemm(x, W, B) h = Clip(a, ZERO, SIX) y = MatMul(h, V)"),
    "clip of opset 10": Graph(
        "a = Gemm(x, W, B) h = Clip<max = 1.5, min = 0.0>(a) y = MatMul(h, V)", opset=10
    ),
    "float_data": Graph(CONVOLUTIONS.format(bias=", B"), **IMAGES, float_data=("B", "K")),
    "float16": Graph(
        "w = Cast<to = 10>(W) a = MatMul(x, w) h = Relu(a) y = MatMul(h, w)",
        "float16[N,4] x",
        "float16[N,4] y",
    ),
}


def write(graph: Graph | onnx.ModelProto, folder: Path) -> Path:
    proto = graph.proto() if isinstance(graph, Graph) else graph
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return path


def harden(path: Path, form: str = "smooth", **options: Any) -> HardenResult:
    """Hardens every layer that can be, visibly: a tenth of the range is suppressed."""
    given = {"cr": 0.1, "selector": Selector("all"), **options}
    return lipcompile.harden(path, "random:4", form=form, **given)
