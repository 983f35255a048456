"""Which tensor of a classifier holds its scores, and which its logits."""

from __future__ import annotations

import onnx_ir as ir

from lipcompile.errors import ModelError
from lipcompile.graph_walks import nodes_by_output
from lipcompile.model_io import LoadedModel
from lipcompile.signature import TensorSpec

# Change neither the order nor the distance of scores.
_PASSING = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze"})
# What may stand behind the mean of an ensemble: a division, or a logarithm with its floor.
_LOGARITHM = frozenset({"Log", "Max", "Clip", "Mul"})


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
            f"{listed}: only classifiers can be used here"
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
    node = final_softmax(model, output)
    if node is None or node.op_type != "Softmax" or node.inputs[0] is None:
        return output
    return node.inputs[0].name or output


def logits_name(model: ir.Model, output: str) -> str:
    """What a Softmax or LogSoftmax that ends in `output` reads, else `output`.

    Both keep the order of the scores; unlike `logits_behind`, this is not about gradients.
    """
    node = final_softmax(model, output)
    value = node.inputs[0] if node is not None else None
    return output if value is None else value.name or output


def final_softmax(model: ir.Model, output: str) -> ir.Node | None:
    """The Softmax or LogSoftmax that gives `output`, if one does."""
    producers = nodes_by_output(model.graph)
    node = _behind(producers.get(output), _PASSING)
    return node if node is not None and node.op_type in ("Softmax", "LogSoftmax") else None


def logits_of_views(model: ir.Model, output: str) -> tuple[str, ...]:
    """The logits of the views, where `output` is a mean of probabilities or its logarithm.

    Args:
        model: A graph with an ensemble around it.
        output: Its scores.

    Returns:
        For each view what its Softmax reads, the same for all where they are one batch;
        nothing where there is no mean of probabilities.
    """
    producers = nodes_by_output(model.graph)
    mean = _behind(producers.get(output), _PASSING | _LOGARITHM)
    if mean is None or mean.op_type not in ("Mean", "Sum"):
        return ()
    ends = [_behind(v.producer() if v else None, _PASSING | {"Split"}) for v in mean.inputs]
    softmaxes = [node for node in ends if node is not None and node.op_type == "Softmax"]
    names = tuple(node.inputs[0].name or "" for node in softmaxes if node.inputs[0])
    return names if len(names) == len(mean.inputs) else ()


def is_logarithm(model: ir.Model, output: str) -> bool:
    """Whether `output` is a logarithm."""
    producers = nodes_by_output(model.graph)
    node = _behind(producers.get(output), _PASSING)
    return node is not None and node.op_type == "Log"


def _behind(node: ir.Node | None, passing: frozenset[str]) -> ir.Node | None:
    """The first operator that does not pass its first input on."""
    while node is not None and node.op_type in passing and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node
