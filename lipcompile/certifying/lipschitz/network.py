"""A classifier as linear maps between functions with known slopes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lipcompile.certifying.lipschitz.maps import LinearMap, Shape

Kind = Literal["input", "linear", "sum", "concat", "slope", "mask"]


@dataclass(frozen=True, slots=True)
class Grid:
    """Which axes of a tensor are channels and places on a torus.

    Attributes:
        channel: Axis of the channels.
        spatial: Axes of the places.
        masked: Nothing but zeros stands outside of the tensor's size, on the torus.
    """

    channel: int
    spatial: tuple[int, ...]
    masked: bool

    @property
    def axes(self) -> tuple[int, ...]:
        """The axis of the channels, then those of the places in the order of the torus."""
        return (self.channel, *self.spatial)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One tensor, and how it follows from others; biases are left out.

    1. "input": the pixels, in the shape of the model's input.
    2. "linear": `map` of its source.
    3. "sum": of its sources.
    4. "concat": of its sources along `axis`.
    5. "slope": a function of its source whose difference quotients lie in [low, high]: of
       each element alone where `pointwise`; else of the whole tensor, with -low = high.
    6. "mask": its source, with zeros outside of its size on the torus.

    Attributes:
        kind: One of these.
        label: Node and operator, for messages.
        shape: With a batch axis of length 1.
        sources: Indices of earlier steps.
        grid: Its place on a torus, where it has one.
        map: See above, like the others below.
    """

    kind: Kind
    label: str
    shape: Shape
    sources: tuple[int, ...] = ()
    grid: Grid | None = None
    map: LinearMap | None = None
    axis: int = 0
    low: float = 0.0
    high: float = 0.0
    pointwise: bool = True

    @property
    def steepest(self) -> float:
        """The largest difference quotient of a "slope" in absolute value."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Steps in an order in which each follows its sources; the last one gives the logits.

    Attributes:
        name: Of the model.
        steps: None of them is superfluous.
    """

    name: str
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        for index, step in enumerate(self.steps):
            assert all(source < index for source in step.sources)
            assert step.kind != "linear" or step.map is not None

    @property
    def classes(self) -> int:
        return int(np.prod(self.steps[-1].shape))

    @property
    def activations(self) -> list[int]:
        """Steps that are no linear functions of their sources."""
        return [i for i, step in enumerate(self.steps) if step.kind == "slope"]


def pruned(name: str, steps: list[Step], last: int) -> Network:
    """A network of the steps that `last` depends on."""
    needed = {last}
    for index in range(last, -1, -1):
        if index in needed:
            needed.update(steps[index].sources)
    order = sorted(needed)
    place = {old: new for new, old in enumerate(order)}
    kept = [
        replace(steps[old], sources=tuple(place[s] for s in steps[old].sources))
        for old in order
    ]
    return Network(name, tuple(kept))
