"""Where convolutions of a network lie: one torus for all that can be composed.

A convolution pads with zeros, and a composition of two is none of the kernels' composition:
what the first one gives beside the image is thrown away. But between them stands an
activation, and throwing away is multiplying by zero: one more function of each element, with
slope 0. So the network is one of *circular* convolutions on a torus, and of activations whose
slopes lie in the hull of 0 and their own interval. Circular convolutions compose frequency by
frequency.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from lipcompile.certifying.lipschitz.convolution import Convolution
from lipcompile.certifying.lipschitz.maps import Reshape, Shape
from lipcompile.certifying.lipschitz.network import Network, Step


@dataclass(frozen=True, slots=True)
class Place:
    """A step on its torus.

    Attributes:
        ratio: How much finer it is along each axis than the coarsest step on that torus.
        size: Length of each axis.
    """

    ratio: Shape
    size: Shape


def places(network: Network) -> dict[int, Place]:
    """The place of each step that has one."""
    found: dict[int, Place] = {}
    seen: set[int] = set()
    edges = _edges(network)
    for start in range(len(network.steps)):
        if start in seen or network.steps[start].grid is None:
            continue
        strides = _component(network, start, edges)
        seen.update(strides)
        if all(value is not None for value in strides.values()):
            found |= _sizes(network, {k: v for k, v in strides.items() if v is not None})
    return found


def passes(network: Network, index: int) -> bool:
    """Whether spectra can be pulled back through a step to its sources."""
    step = network.steps[index]
    sources = [network.steps[source] for source in step.sources]
    if step.kind == "input" or step.grid is None or None in [s.grid for s in sources]:
        return False
    if step.kind == "slope":
        return step.pointwise
    return step.kind != "linear" or not _changes_grid(step, sources[0])


def _changes_grid(step: Step, source: Step) -> bool:
    if not isinstance(step.map, Reshape):
        return False
    assert step.grid is not None and source.grid is not None
    return step.grid.axes != source.grid.axes


def _edges(network: Network) -> Mapping[int, list[tuple[int, Shape, bool]]]:
    """By step: its neighbours, the stride between, and whether the neighbour is coarser."""
    edges: dict[int, list[tuple[int, Shape, bool]]] = {}
    for index, step in enumerate(network.steps):
        if not passes(network, index):
            continue
        assert step.grid is not None
        stride: Shape = (1,) * len(step.grid.spatial)
        if isinstance(step.map, Convolution):
            stride = step.map.strides
        for source in step.sources:
            edges.setdefault(source, []).append((index, stride, True))
            edges.setdefault(index, []).append((source, stride, False))
    return edges


def _component(
    network: Network, start: int, edges: Mapping[int, list[tuple[int, Shape, bool]]]
) -> dict[int, tuple[Fraction, ...] | None]:
    """Strides of all steps that hang together, relative to `start`; None where two ways to a
    step disagree."""
    grid = network.steps[start].grid
    assert grid is not None
    strides: dict[int, tuple[Fraction, ...] | None] = {
        start: (Fraction(1),) * len(grid.spatial)
    }
    queue = [start]
    while queue:
        index = queue.pop()
        here = strides[index]
        for other, stride, coarser in edges.get(index, ()):
            there = None
            if here is not None and len(here) == len(stride):
                pairs = zip(here, stride, strict=True)
                there = tuple(t * s if coarser else t / s for t, s in pairs)
            if other not in strides:
                strides[other] = there
                queue.append(other)
            elif strides[other] != there:
                strides[other] = None
    return strides


def _sizes(
    network: Network, strides: Mapping[int, tuple[Fraction, ...]]
) -> Iterator[tuple[int, Place]]:
    """Places on the smallest torus that has room for every convolution."""
    axes = range(len(next(iter(strides.values()))))
    coarsest = [_multiple([t[axis] for t in strides.values()]) for axis in axes]
    ratios = {
        index: tuple(int(coarsest[axis] / t[axis]) for axis in axes)
        for index, t in strides.items()
    }
    length = [1] * len(axes)
    for index, ratio in ratios.items():
        for needed in _needs(network, index):
            for axis in axes:
                length[axis] = max(length[axis], -(-needed[axis] // ratio[axis]))
    for index, ratio in ratios.items():
        yield index, Place(ratio, tuple(n * r for n, r in zip(length, ratio, strict=True)))


def _needs(network: Network, index: int) -> Iterator[Shape]:
    """Lengths that the torus of a step must have at least."""
    step = network.steps[index]
    assert step.grid is not None
    yield tuple(step.shape[axis] for axis in step.grid.spatial)
    for other in network.steps:
        if index in other.sources and isinstance(other.map, Convolution):
            yield other.map.least_torus()


def _multiple(values: list[Fraction]) -> Fraction:
    """The least common multiple of positive fractions."""
    common = math.lcm(*(value.denominator for value in values))
    return Fraction(math.lcm(*(int(value * common) for value in values)), common)
