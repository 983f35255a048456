"""The small files that a harness needs beside the one that it feeds."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser
from PIL import Image

import lipcompile
from lipcompile import Selector

_CNN = """
<ir_version: 8, opset_import: ["": 17], producer_name: "maker">
net (float[n, 3, 8, 8] x) => (float[n, 4] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, conv_w)
    r = Relu (c)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    h = Gemm (f, fc1_w)
    s = Relu (h)
    y = Gemm (s, fc2_w)
}
"""
_SHAPES = {"conv_w": (4, 3, 3, 3), "fc1_w": (4, 8), "fc2_w": (8, 4)}


def cnn() -> onnx.ModelProto:
    """Conv, pooling and two Gemm: 3 linear layers in about 1.5 kB."""
    model = parser.parse_model(_CNN)
    rng = np.random.default_rng(0)
    for name, shape in _SHAPES.items():
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for node in model.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    return model


@dataclass(frozen=True)
class Subjects:
    """Sound files, as bytes."""

    model: bytes
    hardened: bytes
    weight: bytes
    ensemble: bytes
    table: bytes
    other_table: bytes
    result: bytes
    image: bytes


@cache
def subjects(folder: Path) -> Subjects:
    """Made once per folder, with the library itself."""
    model, select = folder / "subject.onnx", Selector("all")
    model.write_bytes(cnn().SerializeToString(deterministic=True))
    tables = []
    for name, seed in (("a", 0), ("b", 1)):
        data = np.random.default_rng(seed).normal(size=(2, 3, 8, 8)).astype(np.float32)
        table = lipcompile.calibrate(model, data, selector=select)
        table.save(folder / f"{name}.json")
        tables.append((folder / f"{name}.json").read_bytes())
    made = {}
    for name, options in (
        ("hardened", {"cr_by_layer": {"Gemm": "2^-6"}}),
        ("weight", {"variant": "weight", "cr": 0.3}),
        ("ensemble", {"variant": "forged", "ensemble": "flip"}),
    ):
        result = lipcompile.harden(
            model, "random:2", selector=select, output=folder / f"{name}.onnx", **options
        )
        made[name] = (folder / f"{name}.onnx").read_bytes()
        if name == "hardened":
            document = json.dumps(result.to_json()).encode()
    image = io.BytesIO()
    Image.new("RGB", (9, 7), (200, 10, 90)).save(image, "PNG")
    return Subjects(
        model.read_bytes(),
        made["hardened"],
        made["weight"],
        made["ensemble"],
        tables[0],
        tables[1],
        document,
        image.getvalue(),
    )
