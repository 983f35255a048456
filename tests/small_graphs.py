"""Small graphs in ONNX's text form, with initializers of every kind at hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

INITIALIZERS = {
    "W": np.eye(4, dtype=np.float32),
    "K": np.ones((1, 1, 1, 1), np.float32),
    "B": np.ones(4, np.float32),
    "S": np.array(0.5, np.float32),
    "M": np.array(-0.5, np.float32),
    "ZERO": np.array(0, np.float32),
    "SIX": np.array(6, np.float32),
    "Z": np.array(0, np.int8),
    "U": np.ones((4, 4), np.uint8),
    "UZ": np.array(0, np.uint8),
    "AXIS": np.array([0]),
    "YES": np.array(True),
    "SHAPE": np.array([4, 4]),
}


def model(
    body: str,
    inputs: str = "float[4,4] x",
    outputs: str = "float[4,4] y",
    opset: int = 21,
) -> ir.Model:
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]> '
        f"g ({inputs}) => ({outputs}) {{ {body} }}"
    )
    for name, array in INITIALIZERS.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)
