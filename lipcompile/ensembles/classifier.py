"""Which output of a classifier an ensemble averages; other models are refused.

A mean over views is right for one answer per image. Boxes, masks and sequences move with the
image, and their means are none.
"""

from __future__ import annotations

import onnx_ir as ir

from lipcompile.errors import ModelError
from lipcompile.linear_layers import find_constants
from lipcompile.model_io import LoadedModel
from lipcompile.ops import NONLINEAR
from lipcompile.roles import data_inputs, is_passive
from lipcompile.scores import score_output
from lipcompile.signature import TensorSpec
from lipcompile.weights import stored_weight

_NORMALISE = ("Softmax", "LogSoftmax")
_ADVICE = "if its scores are one row of classes per image all the same, say so with --scores"


def find_scores(model: LoadedModel, name: str | None) -> TensorSpec:
    """The output with the class scores: the one that looks like it, or the one that is named.

    Args:
        model: The model.
        name: The user's word.

    Raises:
        ModelError: The model is no classifier, or gives something else beside the scores.
    """
    spec = score_output(model, name)
    if spec.dtype is None or "float" not in spec.dtype:
        raise ModelError(
            f"output '{spec}' of '{model.name}' is {spec.dtype or 'no tensor'}: only float "
            "scores have a mean"
        )
    if name is not None:
        return spec
    others = [other for other in model.outputs if other.name != spec.name]
    if others:
        listed = ", ".join(f"'{other}'" for other in others)
        raise ModelError(
            f"'{model.name}' gives {listed} beside '{spec}', which would still be of the "
            "plain image while the scores are a mean over its views: if that will do, say so "
            f"with --scores '{spec.name}'"
        )
    shape = spec.shape or ()
    classes = shape[1] if len(shape) > 1 else None
    if classes == 1:
        raise ModelError(
            f"'{model.name}' gives '{spec}', one value per image, and no class scores: an "
            f"ensemble takes classifiers; {_ADVICE}"
        )
    if _is_map(model.graph_ir.graph, spec):
        raise ModelError(
            f"'{model.name}' gives '{spec}', which is the map of a convolution (boxes or a "
            f"mask), and no class scores: an ensemble takes classifiers; {_ADVICE}"
        )
    return spec


def _is_map(graph: ir.Graph, spec: TensorSpec) -> bool:
    """Whether a convolution gives the output with no pool or dense layer behind it, and not
    one pixel of it alone."""
    constants = find_constants(graph)
    value = next(value for value in graph.outputs if value.name == spec.name)
    node = value.producer()
    while node is not None and (
        is_passive(node, constants) or node.op_type in NONLINEAR or node.op_type in _NORMALISE
    ):
        followed = data_inputs(node, constants)
        node = followed[0].producer() if followed else None
    if node is None or node.op_type not in ("Conv", "ConvTranspose"):
        return False
    shape = spec.shape or ()
    if len(shape) > 2:
        return any(length != 1 for length in shape[2:])
    weight = stored_weight(node, 1)
    channels = None if isinstance(weight, str) else weight.shape[0]
    return node.op_type != "Conv" or len(shape) < 2 or shape[1] != channels
