"""The graph that makes noisy copies of one image, runs the model, and counts its answers.

    noisy   = cast(image + noise * sigma)              [B, ...], the model's input
    class   = ArgMax(scores)                           [B], the first of equal scores
    number  = (s < 1 or s > 0 for every score s)       [B], false where a score is NaN
    counts  = sum over B of (class == k) * number * counted        int64 [K]

Comparisons stand for IsNaN since every opset from 7 on has them. Counts are summed in float32,
which is exact up to 2^24 rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from lipcompile import model_io
from lipcompile.forged import Emitter
from lipcompile.model_io import LoadedModel
from lipcompile.ops import MARK

_PREFIX = f"{MARK}.smoothing"
IMAGE, NOISE = f"{_PREFIX}/image", f"{_PREFIX}/normals"
SIGMA, COUNTED = f"{_PREFIX}/sigma", f"{_PREFIX}/counted"
COUNTS = f"{_PREFIX}/counts"


def counting_graph(model: LoadedModel, proto: Any, output: str, classes: int) -> bytes:
    """Serialises the model inside of the graph above; external weights stay outside.

    Its inputs, for a model's input of shape [batch, ...]:
        IMAGE    [1, ...], the normalised image, in `wide_dtype`
        NOISE    float32 [B, ...], standard normals
        SIGMA    [1, ...], factor on the noise, in `wide_dtype`
        COUNTED  float32 [B, 1], 1 for rows that count, else 0
    Its outputs: COUNTS, int64 [K], and the model's scores.

    Args:
        model: A classifier with one input.
        proto: Its own, or one of the same signature but for the batch.
        output: Name of the output with the scores: [B, K], or [B, K, 1, 1].
        classes: K.

    Raises:
        ModelError: The inline weights do not fit into one protobuf message.
    """
    spec = model.inputs[0]
    dtype = next(out.dtype for out in model.outputs if out.name == output)
    assert spec.dtype is not None and dtype is not None and spec.shape is not None
    shape = [None if isinstance(n, str) else n for n in spec.shape[1:]]
    wide = wide_dtype(spec.dtype)
    image = _input(IMAGE, wide, [1, *shape])
    noise = _input(NOISE, "float32", [None, *shape])
    sigma = _input(SIGMA, wide, [1, *shape])
    counted = _input(COUNTED, "float32", [None, 1])
    front = _noisy(spec.name, spec.dtype, image, noise, sigma)
    behind = _Counting(model.opset, ir.Value(name=output), dtype, classes).nodes(counted)
    inputs = (image, noise, sigma, counted)
    return model_io.framed(proto, spec.name, inputs, front, behind, [output])


def wide_dtype(dtype: str) -> str:
    """What noise is added in: float64 for float64 models, else float32."""
    return "float64" if dtype == "float64" else "float32"


def _input(name: str, dtype: str, shape: list[int | None]) -> ir.Value:
    kind = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
    return ir.Value(name=name, type=kind, shape=ir.Shape(shape))


def _noisy(
    name: str, dtype: str, image: ir.Value, noise: ir.Value, sigma: ir.Value
) -> list[ir.Node]:
    emit = Emitter("noise", _PREFIX)
    wide = wide_dtype(dtype)
    normals = noise if wide == "float32" else emit.cast(noise, wide)
    noisy = emit("Add", image, emit("Mul", normals, sigma))
    result = noisy if wide == dtype else emit.cast(noisy, dtype)
    result.name = name  # so that nothing in the model has to be changed
    return emit.nodes


class _Counting:
    """Builds what reads the scores."""

    def __init__(self, opset: int, scores: ir.Value, dtype: str, classes: int) -> None:
        self._opset = opset
        self._scores = scores
        self._dtype = wide_dtype(dtype)
        self._is_narrow = dtype != self._dtype
        self._classes = classes
        self._emit = Emitter("count", _PREFIX)

    def nodes(self, counted: ir.Value) -> list[ir.Node]:
        emit = self._emit
        scores = emit("Flatten", self._scores, attributes={"axis": 1})
        if self._is_narrow:
            scores = emit.cast(scores, self._dtype)
        best = emit("ArgMax", scores, attributes={"axis": 1, "keepdims": 1})
        hits = emit.cast(emit("Equal", best, self._integers(range(self._classes))), "float32")
        weights = emit("Mul", self._is_number(scores), counted)
        counts = emit.cast(self._sum(emit("Mul", hits, weights), 0, keepdims=0), "int64")
        counts.name = COUNTS
        counts.type = ir.TensorType(ir.DataType.INT64)
        counts.shape = ir.Shape([self._classes])
        return emit.nodes

    def _is_number(self, scores: ir.Value) -> ir.Value:
        """float32 [B, 1]: 0 where a score is NaN, which is neither below 1 nor above 0."""
        emit = self._emit
        below = emit("Less", scores, emit.constant(1, self._dtype))
        above = emit("Greater", scores, emit.constant(0, self._dtype))
        numbers = self._sum(emit.cast(emit("Or", below, above), "float32"), 1, keepdims=1)
        all_of_them = emit.constant(self._classes - 0.5, "float32")
        return emit.cast(emit("Greater", numbers, all_of_them), "float32")

    def _sum(self, value: ir.Value, axis: int, *, keepdims: int) -> ir.Value:
        if self._opset >= 13:
            axes = self._integers([axis])
            return self._emit("ReduceSum", value, axes, attributes={"keepdims": keepdims})
        attributes = {"keepdims": keepdims, "axes": [axis]}
        return self._emit("ReduceSum", value, attributes=attributes)

    def _integers(self, numbers: range | list[int]) -> ir.Value:
        array = np.array(list(numbers), np.float32)  # Constant knew no integers before opset 9
        tensor = ir.AttrTensor("value", ir.tensor(array))
        return self._emit.cast(self._emit("Constant", attributes={"value": tensor}), "int64")
