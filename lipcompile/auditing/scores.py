"""Which tensor of a classifier holds its scores, and which its logits."""

from __future__ import annotations

import onnx_ir as ir

from lipcompile.errors import ModelError
from lipcompile.model_io import LoadedModel
from lipcompile.signature import TensorSpec

# Change neither the order nor the distance of scores.
_PASSING = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze"})


def score_output(model: LoadedModel, name: str | None = None) -> TensorSpec:
    """The output that holds one row of class scores per image.

    Args:
        model: The classifier.
        name: The output that the user named, if any.

    Raises:
        ModelError: There is none, or more than one may be it.
    """
    listed = ", ".join(f"'{spec}'" for spec in model.outputs)
    if name is not None:
        for spec in model.outputs:
            if spec.name == name:
                return spec
        raise ModelError(f"'{model.name}' has no output '{name}': it gives {listed}")
    candidates = [spec for spec in model.outputs if _may_hold_scores(spec)]
    if not candidates:
        raise ModelError(
            f"'{model.name}' has no output with class scores (float [N, classes]); it gives "
            f"{listed}: audit takes classifiers"
        )
    if len(candidates) > 1:
        raise ModelError(
            f"'{model.name}' has {len(candidates)} outputs that may hold class scores: it "
            f"gives {listed}; name one with --scores"
        )
    return candidates[0]


def class_count(model: LoadedModel, name: str | None = None) -> int | None:
    """How many scores the model gives per image, where its signature tells."""
    shape = score_output(model, name).shape
    classes = shape[1] if shape is not None and len(shape) > 1 else None
    return classes if isinstance(classes, int) else None


def _may_hold_scores(spec: TensorSpec) -> bool:
    """Float [N, K], or [N, K, 1, 1]; an axis of unknown length may be 1."""
    if spec.dtype is None or "float" not in spec.dtype:
        return False
    if spec.shape is None:
        return True
    return len(spec.shape) >= 2 and all(
        isinstance(length, str) or length == 1 for length in spec.shape[2:]
    )


def logits_behind(model: ir.Model, output: str) -> str:
    """The input of a Softmax that ends the graph, else the output itself.

    Softmax keeps the order of the scores, but its gradients vanish where it saturates.
    """
    producers = {value.name: node for node in model.graph for value in node.outputs}
    node = producers.get(output)
    while node is not None and node.op_type in _PASSING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is not None and node.op_type == "Softmax" and node.inputs[0] is not None:
        return node.inputs[0].name or output
    return output
