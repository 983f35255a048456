"""The pass that takes an abstain head off again: the inverse of `AddAbstention`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from lipcompile.errors import ModelError
from lipcompile.graph_walks import gives_under, producer_of
from lipcompile.passes.add_abstention import PREFIX, SCORES


@dataclass(frozen=True, slots=True)
class RemoveAbstention:
    """Rewrites a graph in place: without the head of `record`.

    Attributes:
        record: What the graph's provenance says of it.
    """

    record: Mapping[str, Any]

    def __call__(self, model: ir.Model) -> None:
        """Applies the pass.

        Raises:
            ModelError: The graph lacks something that the record names.
        """
        graph, is_logit = model.graph, self.record["as"] == "logit"
        try:
            values = {value.name: value for node in graph for value in node.outputs}
            told = values[self.record["scores" if is_logit else "output"]]
            own = {node for node in graph if gives_under(node, PREFIX)} | {producer_of(told)}
            if is_logit:
                scores = values[SCORES]
                own.discard(producer_of(scores))
                graph.outputs[:] = [scores if v is told else v for v in graph.outputs]
                told.name, scores.name = None, told.name
            else:
                graph.outputs[:] = [value for value in graph.outputs if value is not told]
            graph.remove(own, safe=True)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ModelError(
                "the abstain head cannot be taken off: the graph does not fit its own "
                f"provenance ({type(error).__name__}: {error}), so another tool changed it "
                "after it was hardened; take the original"
            ) from error
