"""Functions as the operators that they are made of."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx
import onnx.inliner
import onnx_ir as ir

from lipcompile.errors import ModelError
from lipcompile.model_io.reading import LoadedModel, to_ir
from lipcompile.ops import STANDARD_DOMAINS


def expand_functions(model: LoadedModel, known: Collection[str]) -> tuple[ir.Model, int]:
    """A private copy of a model's graph, in which functions are expanded.

    Local functions always are; an operator of ONNX that is not in `known` is where ONNX
    defines it by a function body.

    Args:
        model: The model, which is not changed.
        known: Names of operators that the caller can run itself.

    Returns:
        The graph, and the version of its default operator set.

    Raises:
        ModelError: The functions cannot be expanded.
    """
    proto = model.proto
    used = {(node.domain, node.op_type) for node in proto.graph.node}
    foreign = any(d in STANDARD_DOMAINS and name not in known for d, name in used)
    if proto.functions or foreign:
        proto = _expand(proto, known, model.name)
    graph_ir = to_ir(proto, model.name)
    graph_ir.graph.sort()  # ONNX Runtime takes nodes in any order
    if model.base_dir is not None:
        ir.external_data.set_base_dir(graph_ir.graph, model.base_dir)
    versions = graph_ir.opset_imports
    return graph_ir, versions.get("") or versions.get("ai.onnx", model.opset)


def _expand(proto: onnx.ModelProto, known: Collection[str], name: str) -> onnx.ModelProto:
    version = max(o.version for o in proto.opset_import if o.domain in STANDARD_DOMAINS)
    kept = [(domain, op) for domain in STANDARD_DOMAINS for op in known]
    try:
        # Bodies that depend on the inputs' types need those types.
        typed = onnx.shape_inference.infer_shapes(proto)
        # The inliner asks for the type of an input that is left out, too: any will do.
        typed.graph.value_info.add(name="").type.tensor_type.elem_type = 1
        for nodes in (typed.graph.node, *(function.node for function in typed.functions)):
            _state_defaults(nodes, known, version)
        return onnx.inliner.inline_selected_functions(
            typed, kept, exclude=True, inline_schema_functions=True
        )
    except Exception as error:  # the inliner raises RuntimeError and its own types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the functions of '{name}' cannot be expanded ({reason}): check the model with "
            "onnx.checker"
        ) from error


def _state_defaults(
    nodes: Iterable[onnx.NodeProto], known: Collection[str], version: int
) -> None:
    """Writes down the defaults of attributes: onnx's inliner takes them for missing.

    MeanVarianceNormalization would normalise over all axes in place of its default [0, 2, 3].
    """
    for node in nodes:
        for attribute in node.attribute:
            _state_defaults(attribute.g.node, known, version)
        if node.domain not in STANDARD_DOMAINS or node.op_type in known:
            continue
        if not onnx.defs.has(node.op_type):
            continue
        present = {attribute.name for attribute in node.attribute}
        schema = onnx.defs.get_schema(node.op_type, version)
        node.attribute.extend(
            default.default_value
            for name, default in schema.attributes.items()
            if name not in present and default.default_value.name
        )
