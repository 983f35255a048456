"""A classifier as a network of linear maps and slopes; what has none is refused by name."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lipcompile.certifying.lipschitz import operators  # noqa: F401  (fills the registry)
from lipcompile.certifying.lipschitz.maps import Scale
from lipcompile.certifying.lipschitz.network import Grid, Network, Step, pruned
from lipcompile.certifying.lipschitz.reader import OPERATORS, Reader, Refused, label
from lipcompile.certifying.lipschitz.tracing import SMOOTHING, trace
from lipcompile.errors import ModelError
from lipcompile.graph_walks import inner_nodes
from lipcompile.labelled import Normalisation
from lipcompile.model_io import LoadedModel
from lipcompile.ops import RANDOM, STANDARD_DOMAINS

_FLOATS = ("float32", "float64")
# Whose operands may all depend on the image; of CastLike, only the type of the second counts.
_SEVERAL = frozenset(
    {
        *("Add", "Sum", "Mean", "Sub", "Mul", "Div", "Max", "Min", "Concat"),
        *("MatMul", "Gemm", "Where", "CastLike"),
    }
)


def read_network(
    model: LoadedModel,
    normalisation: Normalisation,
    dims: tuple[int, int, int],
    scores: str | None = None,
) -> Network:
    """The logits as a function of the pixels, before normalisation.

    Args:
        model: A classifier of one image at a time, or of any number.
        normalisation: How pixels become its input.
        dims: (channels, height, width) of the pixels.
        scores: The output with the scores; None finds it.

    Raises:
        ModelError: A part has no finite bound; the message names it.
        RunFailure: The model does not run on one image of this size.
    """
    fixed = model.inputs[0].fixed_batch
    if fixed not in (None, 1):
        raise ModelError(
            f"'{model.name}' takes {fixed} images at once, which may depend on each other: "
            f"export it with a dynamic batch, or {SMOOTHING}"
        )
    image = normalisation(np.zeros((1, *dims), np.float32))
    traced = trace(model, image, scores)
    reader = Reader(traced)
    reader.known[traced.pixels] = _pixels(reader, normalisation, dims)
    for node in traced.nodes:
        if any(map(reader.is_data, node.outputs)):
            _read(reader, node)
        elif reason := _not_constant(reader, node):
            raise ModelError(f"'{model.name}' has no Lipschitz bound: {reason}: {SMOOTHING}")
    last = reader.known[traced.logits]
    if isinstance(last, str):
        raise ModelError(f"'{model.name}' has no Lipschitz bound: {last}: {SMOOTHING}")
    return pruned(model.name, reader.steps, last)


def _pixels(reader: Reader, normalisation: Normalisation, dims: tuple[int, int, int]) -> int:
    """The pixels in the shape of the model's input, and the scale of its normalisation."""
    shape = reader.trace.shapes[reader.trace.pixels]
    channel = 1 if normalisation.layout == "NCHW" else 3
    spatial = tuple(axis for axis in (1, 2, 3) if axis != channel)
    grid = Grid(channel, spatial, masked=True) if normalisation.shape is None else None
    # In float64 from the very numbers that are divided by in float32.
    std = np.array(normalisation.std, np.float32).astype(np.float64)
    scale = np.abs(np.float64(np.float32(normalisation.scale)) / std)[:, None, None]
    factors = np.broadcast_to(scale, (len(std), 1, 1))
    if normalisation.shape is not None:
        factors = np.broadcast_to(scale, dims)
    if normalisation.layout == "NHWC":
        factors = factors.transpose(1, 2, 0)
    if normalisation.shape is not None:
        factors = factors.reshape(normalisation.shape)
    pixels = reader.add(Step("input", "the pixels", shape, grid=grid))
    scaled = Scale(shape, factors[None])
    return reader.add(Step("linear", "the normalisation", shape, (pixels,), grid, scaled))


def _read(reader: Reader, node: ir.Node) -> None:
    """Adds the node's steps; where it has none, its outputs carry the reason."""
    try:
        _check(reader, node)
        made = OPERATORS[node.op_type](reader, node)
        found = made if isinstance(made, list) else [made]
        _compare(reader, node, found)
    except Refused as refused:
        text = str(refused)
        # The reason of an earlier node is passed on as it is.
        named = text if text.startswith("node ") else f"node {label(node)} {text}"
        reader.known |= dict.fromkeys(node.outputs, named)
        return
    reader.known |= dict(zip(node.outputs, found, strict=False))


def _not_constant(reader: Reader, node: ir.Node) -> str | None:
    """Why the result of a node without the image among its operands differs all the same."""
    drawn = [one.op_type for one in (node, *inner_nodes(node)) if one.op_type in RANDOM]
    if drawn:
        return f"node {label(node)} draws random numbers ({drawn[0]})"
    for value in node.inputs:
        # The shape of a tensor whose operator is not known may depend on what is in it.
        if value is not None and isinstance(known := reader.known.get(value), str):
            return known
    return None


def _compare(reader: Reader, node: ir.Node, found: list[int]) -> None:
    """The shapes that a node's steps have with those that were seen."""
    for value, step in zip(node.outputs, found, strict=False):
        shape, seen = reader.steps[step].shape, reader.trace.shapes.get(value)
        if seen not in (None, shape):
            raise Refused(f"gave a tensor of shape {seen}, where {shape} was expected")


def _check(reader: Reader, node: ir.Node) -> None:
    for value in node.outputs:
        dtype = reader.trace.dtypes.get(value)
        if dtype is not None and dtype not in _FLOATS:
            raise Refused(_narrow(node, dtype))
    if node.domain not in STANDARD_DOMAINS or node.op_type not in OPERATORS:
        for operand in filter(reader.is_data, node.inputs):
            reader.step_of(operand)  # an earlier reason is the cause
        name = node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain} operator"
        raise Refused(f"is a {name}, for which no bound is known here")
    if node.op_type not in _SEVERAL:
        for index in range(1, len(node.inputs)):
            reader.constant(node, index)


def _narrow(node: ir.Node, dtype: str) -> str:
    if "int" in dtype:
        return f"rounds to {dtype}, as quantised models do, and a step has no finite slope"
    if dtype in ("float16", "bfloat16"):
        return (
            f"computes in {dtype}, whose rounding errors are as large as what certificates "
            "are about"
        )
    return f"gives {dtype}, which jumps"
