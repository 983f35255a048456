"""Builds a network, step by step, from the nodes of a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from lipcompile.certifying.lipschitz.convolution import Convolution
from lipcompile.certifying.lipschitz.maps import LinearMap, Reshape, Selection, Shape
from lipcompile.certifying.lipschitz.network import Grid, Step
from lipcompile.certifying.lipschitz.tracing import Trace


class Refused(Exception):
    """Why a node has no finite bound: a clause whose subject is the node."""


Handler = Callable[["Reader", ir.Node], int | list[int]]
OPERATORS: dict[str, Handler] = {}


def operator(*names: str) -> Callable[[Handler], Handler]:
    """Registers how nodes of these types are read.

    A handler returns the step of the node's first output, or those of all outputs.
    """

    def register(handler: Handler) -> Handler:
        for name in names:
            assert name not in OPERATORS
            OPERATORS[name] = handler
        return handler

    return register


@dataclass(slots=True)
class Reader:
    """Steps so far.

    Attributes:
        trace: The graph.
        steps: In order.
        known: Step of each tensor, or why it has none.
    """

    trace: Trace
    steps: list[Step] = field(default_factory=list)
    known: dict[ir.Value, int | str] = field(default_factory=dict)

    def is_data(self, value: ir.Value | None) -> bool:
        """Whether the value depends on the pixels."""
        return value is not None and value in self.trace.shapes

    def step_of(self, value: ir.Value | None) -> int:
        """The step of a tensor that depends on the pixels.

        Raises:
            Refused: It has none; the reason is that of the node that has no bound.
        """
        assert value is not None
        found = self.known.get(value, "is computed by an operator that is not supported")
        if isinstance(found, str):
            raise Refused(found)
        return found

    def constant(self, node: ir.Node, index: int) -> np.ndarray | None:
        """An operand that does not depend on the pixels; None where it is left out.

        Raises:
            Refused: It depends on them.
        """
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None or not value.name:
            return None
        if self.is_data(value):
            raise Refused(f"takes its operand {index} from the image")
        if value not in self.trace.constants:
            raise Refused(f"has an operand '{value.name}' whose value is unknown")
        return self.trace.constants[value]

    def need(self, node: ir.Node, index: int) -> np.ndarray:
        """As `constant`, in float64; an operand that must be there."""
        found = self.constant(node, index)
        if found is None:
            raise Refused(f"lacks its operand {index}")
        if not np.isfinite(found).all():
            raise Refused(f"has NaN or infinity in its operand {index}")
        return found.astype(np.float64)

    def integers(self, node: ir.Node, index: int) -> list[int]:
        """As `constant`, in one dimension; nothing where it is left out."""
        found = self.constant(node, index)
        return [] if found is None else [int(number) for number in found.reshape(-1)]

    def shape(self, node: ir.Node, output: int = 0) -> Shape:
        """Of an output, with a batch axis of length 1."""
        return self.trace.shapes[node.outputs[output]]

    def add(self, step: Step) -> int:
        self.steps.append(step)
        return len(self.steps) - 1

    def linear(
        self, node: ir.Node, source: int, linear: LinearMap, grid: Grid | None = None
    ) -> int:
        """A step that maps another one."""
        assert linear.in_shape == self.steps[source].shape
        step = Step("linear", label(node), linear.out_shape, (source,), grid, linear)
        return self.add(step)

    def slope(
        self, node: ir.Node, source: int, low: float, high: float, shape: Shape | None = None
    ) -> int:
        """A function with difference quotients in [low, high].

        Args:
            node: What computes it.
            source: Its argument.
            low: Of each element alone; with a `shape`, of the whole tensor.
            high: Likewise.
            shape: Of the result, for a function that is not one of each element alone.
        """
        before = self.steps[source]
        if shape is None and before.kind == "slope" and before.pointwise:
            # Two functions of each element are one: a Relu and a form behind it.
            ends = [a * b for a in (low, high) for b in (before.low, before.high)]
            return self.slope(node, before.sources[0], min(ends), max(ends))
        if shape is None:
            grid = replace(before.grid, masked=True) if before.grid else None
        else:
            grid = channels_first(shape) if before.grid else None
        return self.add(
            Step(
                "slope",
                label(node),
                before.shape if shape is None else shape,
                (source,),
                grid,
                low=low,
                high=high,
                pointwise=shape is None,
            )
        )

    def rearrange(
        self, node: ir.Node, source: int, how: Callable[[np.ndarray], np.ndarray]
    ) -> int:
        """A step that moves, repeats or drops elements.

        Args:
            node: What computes it.
            source: Its argument.
            how: Does the same to an array of positions; -1 stands for zero.
        """
        before = self.steps[source]
        flat = np.arange(int(np.prod(before.shape)))
        index = np.ascontiguousarray(how(flat.reshape(before.shape)))
        if np.array_equal(index.reshape(-1), flat):
            same = index.shape == before.shape
            grid = before.grid if same else None
            return self.linear(node, source, Reshape(before.shape, index.shape), grid)
        chosen = Selection(before.shape, index.shape, index)
        grid = before.grid
        if grid is not None and chosen.channels(grid.channel) is None:
            grid = None
        return self.linear(node, source, chosen, grid)

    def spread(self, node: ir.Node, source: int, shape: Shape) -> int:
        """The source as it broadcasts to `shape`."""
        if self.steps[source].shape == shape:
            return source
        return self.rearrange(node, source, lambda a: np.broadcast_to(a, shape))

    def convolve(self, node: ir.Node, source: int, kernel: Convolution) -> int:
        """A convolution, behind what makes its argument one on a torus."""
        before = self.steps[source]
        wanted = channels_first(before.shape)
        if before.grid is None or before.grid.axes != wanted.axes:
            source = self.linear(node, source, Reshape(before.shape, before.shape), wanted)
        elif kernel.reads_outside and not before.grid.masked:
            source = self.add(Step("mask", before.label, before.shape, (source,), wanted))
        return self.linear(
            node, source, kernel, replace(channels_first(kernel.out_shape), masked=False)
        )


def channels_first(shape: Shape) -> Grid:
    """A masked tensor [1, C, ...]."""
    return Grid(1, tuple(range(2, len(shape))), masked=True)


def label(node: ir.Node) -> str:
    """For messages: "'conv1' (Conv)"."""
    name = node.name or (node.outputs[0].name if node.outputs else "")
    return f"'{name}' ({node.op_type})"
