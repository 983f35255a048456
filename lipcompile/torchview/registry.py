"""Which operators the torch view has. A family file registers its builders here.

A builder looks at one node when the view is made, and returns the function that computes it:

    @operator("Relu")
    def relu(node: NodeView) -> Operation:
        return torch.relu

The function takes one argument per input of the node (None for one that is left out) and
returns a tensor, or a tuple with one entry per output. What is known when the view is made
(attributes, constant operands) is read by the builder, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lipcompile.torchview.node import NodeView

Operation = Callable[..., Any]
Builder = Callable[[NodeView], Operation]

OPERATORS: dict[str, Builder] = {}


def operator(*names: str) -> Callable[[Builder], Builder]:
    """Registers a builder for the operators `names` of ONNX's default domain."""

    def register(builder: Builder) -> Builder:
        for name in names:
            assert name not in OPERATORS, f"operator '{name}' is registered twice"
            OPERATORS[name] = builder
        return builder

    return register


def pointwise(name: str, function: Operation) -> None:
    """Registers an operator that needs neither attributes nor constant operands."""
    operator(name)(lambda _: function)
