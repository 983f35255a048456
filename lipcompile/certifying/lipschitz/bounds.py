"""A crude product bound that stands in for the core of issue 8 until that is merged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lipcompile.labelled.normalisation import Normalisation
from lipcompile.model_io import LoadedModel
from lipcompile.scores import final_softmax, score_output
from lipcompile.weights import constant_array, stored_weight


@dataclass(frozen=True, slots=True, eq=False)
class LipschitzBounds:
    """Upper bounds of the logits as functions of the pixels, l2."""

    pairwise: np.ndarray
    per_logit: np.ndarray
    whole: float
    product: float


def lipschitz_bounds(
    model: LoadedModel,
    normalisation: Normalisation,
    dims: tuple[int, int, int],
    scores: str | None = None,
) -> LipschitzBounds:
    graph = model.graph_ir.graph
    name = score_output(model, scores).name
    found: dict[ir.Value, float] = {}
    start = normalisation.scale / min(normalisation.std)
    for value in graph.inputs:
        if not value.is_initializer():
            found[value] = start
    last: np.ndarray = np.eye(1)
    for node in graph:
        data = [v for v in node.inputs if v in found]
        if data:
            factor, weight = _factor(node)
            last = weight if weight is not None else last
            joined = sum(found[v] for v in data)
            if node.op_type == "Concat":
                joined = float(np.sqrt(sum(found[v] ** 2 for v in data)))
            found.update(dict.fromkeys(node.outputs, factor * joined))
    ending = final_softmax(model.graph_ir, name)
    end = next(v for v in graph.outputs if v.name == name)
    if ending is not None and ending.inputs[0] is not None:
        end = ending.inputs[0]
    product = found[end]
    norm = np.linalg.norm(last, 2)
    rows = last[:, None] - last[None, :]
    pairwise = np.linalg.norm(rows.reshape(len(last), len(last), -1), axis=2)
    return LipschitzBounds(
        pairwise * product / norm,
        np.linalg.norm(last, axis=1) * product / norm,
        product,
        product,
    )


def _factor(node: ir.Node) -> tuple[float, np.ndarray | None]:
    if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        weight = stored_weight(node, 1)
        assert not isinstance(weight, str)
        array = weight.as_read(weight.array()).astype(np.float64)
        if node.op_type.startswith("Conv"):
            taps = float(np.sqrt(array[0, 0].size))
            return float(np.linalg.norm(array)) * taps, None
        if node.op_type == "MatMul" or not node.attributes.get_int("transB", 0):
            array = array.T
        return float(np.linalg.norm(array, 2)), array
    if node.op_type == "BatchNormalization":
        scale, _, _, var = (constant_array(v) for v in node.inputs[1:5])
        assert scale is not None and var is not None
        return float(np.abs(scale / np.sqrt(var + 1e-5)).max()), None
    if node.op_type in ("Mul", "Div"):
        constant = next((c for v in node.inputs if (c := constant_array(v)) is not None), None)
        assert constant is not None
        if node.op_type == "Mul":
            return float(np.abs(constant).max()), None
        return float(1 / np.abs(constant).min()), None
    return 1.0, None
