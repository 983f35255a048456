"""Control flow."""

from __future__ import annotations

from typing import Any

import torch

from lipcompile.torchview.node import NodeView
from lipcompile.torchview.registry import Operation, operator


@operator("If")
def if_(node: NodeView) -> Operation:
    """Runs one of its two subgraphs."""
    then_branch = node.run_graph(node.attribute("then_branch"))
    else_branch = node.run_graph(node.attribute("else_branch"))

    def run(environment: dict[str, Any], condition: torch.Tensor) -> tuple[Any, ...]:
        return (then_branch if bool(condition) else else_branch)(environment)

    return run
