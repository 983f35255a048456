"""Graphs in ONNX's text form, and what ONNX Runtime gives for them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch


def graph(
    body: str,
    inputs: str = "float[n,4] x",
    outputs: str = "float[n,4] y",
    weights: str = "",
    opset: int = 17,
) -> onnx.ModelProto:
    """A checked model; `weights` are initializers as "float[2] w = {1, 2}"."""
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {opset}]> '
        f"g ({inputs}) => ({outputs}) <{weights}> {{ {body} }}"
    )
    onnx.checker.check_model(model)
    return model


def runtime_values(model: onnx.ModelProto, *inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [value.name for value in session.get_inputs()]
    return list(session.run(None, dict(zip(names, inputs, strict=True))))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Seeded normal numbers, float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)
