"""Which output of a classifier an ensemble averages; other models are refused.

A mean over views is right for one answer per image. Boxes, masks and sequences move with the
image, and their means are none.
"""

from __future__ import annotations

import onnx_ir as ir

from lipcompile.errors import ModelError
from lipcompile.model_io import LoadedModel
from lipcompile.scores import score_output
from lipcompile.signature import TensorSpec
from lipcompile.weights import stored_weight

_ADVICE = "if its scores are one row of classes per image all the same, say so with --scores"
# From scores back to the layer that gives them, along first inputs.
_PASSING = {
    *("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"),
    *("Softmax", "LogSoftmax", "Sigmoid", "Clip", "Relu", "LeakyRelu"),
    *("Add", "Sub", "Mul", "Div", "BatchNormalization", "QuantizeLinear", "DequantizeLinear"),
}


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
    channels = _channels_of_map(model.graph_ir.graph, spec.name)
    if isinstance(classes, int) and channels not in (None, classes):
        raise ModelError(
            f"'{model.name}' gives '{spec}', which is a map of {channels} channels laid flat "
            f"(boxes or a mask), and no class scores: an ensemble takes classifiers; {_ADVICE}"
        )
    return spec


def _channels_of_map(graph: ir.Graph, output: str) -> int | None:
    """Channels of the convolution whose map is this output, if one is: pooled maps are not."""
    value = next(value for value in graph.outputs if value.name == output)
    node = value.producer()
    while node is not None and node.op_type in _PASSING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type != "Conv":
        return None
    weight = stored_weight(node, 1)
    return None if isinstance(weight, str) else weight.shape[0]
