"""Whether a model can run on all views of an image in one batch, as far as its graph tells.

What is left is tried (`trying.py`): a Reshape may hold the batch, and no one sees that from
outside.
"""

from __future__ import annotations

import re

import onnx_ir as ir

from lipcompile.attributes import integer
from lipcompile.ensembles.image_input import ImageInput
from lipcompile.graph_walks import inner_nodes, nodes_behind
from lipcompile.model_io import LoadedModel
from lipcompile.weights import constant_array


def batch_obstacle(model: LoadedModel, image: ImageInput) -> str | None:
    """Why the model cannot run on a larger batch inside; what is left is tried later."""
    if len(model.inputs) > 1:
        return f"takes {len(model.inputs)} inputs"
    if len(model.outputs) > 1:
        return f"gives {len(model.outputs)} outputs"
    graph = model.graph_ir.graph
    given = next(value for value in graph.inputs if value.name == image.spec.name)
    behind = nodes_behind(graph, given)
    for node in graph:
        if node in behind and (how := mixes_images(node) or _branches_on(node, given, behind)):
            return f"has a {node.op_type} '{node.name}' that {how}"
    tensors = {value.name for node in behind for value in node.outputs}
    tensors -= {spec.name for spec in model.outputs}
    batch = image.shape[0]
    told = [info for info in model.proto.graph.value_info if info.name in tensors]
    if isinstance(batch, int) and told:
        return f"takes batches of exactly {batch} and says so of tensors inside"
    if told and batch in image.shape[1:]:
        return f"names another axis '{batch}' like its batch"
    marked = re.compile(r"\d+\*" + re.escape(str(batch)))
    for info in told:
        if any(marked.fullmatch(dim.dim_param) for dim in info.type.tensor_type.shape.dim):
            return f"speaks of multiples of its batch '{batch}' already"
    return None


def mixes_images(node: ir.Node) -> str | None:
    """What lets one image of a batch see another, where the operator tells by itself."""
    if node.op_type == "DynamicQuantizeLinear":
        return "scales by the largest value of the batch"
    if node.op_type == "BatchNormalization" and integer(node, "training_mode", 0):
        return "takes statistics of the batch"
    if node.op_type.startswith("Reduce") and 0 in (_reduced(node) or (0,)):
        return "reduces over the batch"
    return None


def _branches_on(node: ir.Node, image: ir.Value, behind: set[ir.Node]) -> str | None:
    """What a node with subgraphs does that one batch may not do for all views."""
    inner = list(inner_nodes(node))
    if any(image in one.inputs for one in inner):
        return "reads the image in a subgraph"
    depends = [v is not None and v.producer() in behind for v in node.inputs]
    if inner and (node.op_type != "If" or any(depends)):
        return "is control flow that depends on the image"
    return None


def _reduced(node: ir.Node) -> tuple[int, ...]:
    """Axes of a reduction, as far as they are known; none for all of them."""
    attribute = node.attributes.get("axes")
    if attribute is not None and attribute.type == ir.AttributeType.INTS:
        return tuple(attribute.as_ints())
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is None:
        return ()
    array = constant_array(axes)
    return tuple(int(axis) for axis in array.ravel()) if array is not None else (1,)
