"""The pass that takes an ensemble off again: the inverse of `WrapEnsemble`.

Cases:
    1. way "batch": what reads the concatenated views reads the image again.
    2. way "branches": the copies go; nothing else was edited.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from lipcompile.errors import ModelError
from lipcompile.graph_walks import gives_under, producer_of
from lipcompile.passes.wrap_ensemble import JOINED, PREFIX, SCORES


@dataclass(frozen=True, slots=True)
class UnwrapEnsemble:
    """Rewrites a graph in place: without the ensemble of `record`.

    Attributes:
        record: What the graph's provenance says of it.
    """

    record: Mapping[str, Any]

    def __call__(self, model: ir.Model) -> None:
        """Applies the pass.

        Raises:
            ModelError: The graph lacks something that the record names.
        """
        graph = model.graph
        try:
            values = {value.name: value for node in graph for value in node.outputs}
            image = next(v for v in graph.inputs if v.name == self.record["input"])
            scores, mean = values[SCORES], values[self.record["at"]]
            body = scores.producer()
            own = {node for node in graph if gives_under(node, PREFIX) and node is not body}
            own.add(producer_of(mean))
            if self.record["way"] == "batch":
                _reconnect(values[JOINED], image, own)
            _reconnect(mean, scores, own)
            graph.outputs[:] = [scores if value is mean else value for value in graph.outputs]
            mean.name, scores.name = None, mean.name
            graph.remove(own, safe=True)
        except (AttributeError, LookupError, StopIteration, TypeError, ValueError) as error:
            raise ModelError(
                "the ensemble cannot be taken off: the graph does not fit its own provenance "
                f"({type(error).__name__}: {error}), so another tool changed it after it was "
                "hardened; take the original"
            ) from error


def _reconnect(value: ir.Value, before: ir.Value, own: Container[ir.Node]) -> None:
    for node, index in tuple(value.uses()):
        if node not in own:
            node.replace_input_with(index, before)
