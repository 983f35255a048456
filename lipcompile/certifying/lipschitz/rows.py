"""Pulls rows, linear functions of one step, back to where activations made it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lipcompile.certifying.lipschitz.network import Network, Step


def pull_rows(
    network: Network, target: int, rows: np.ndarray, *, through: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """The rows as functions of the pixels and of what activations add.

    With slopes in [low, high], middle = (low + high) / 2, an activation is

        f(y) = middle * y + g(y),   g has difference quotients within (high - low) / 2,

    so that rows * target = sum over the activations k of M_k * g_k(y_k), plus M_0 * pixels.

    Args:
        network: The network.
        target: A step.
        rows: float64 [m, *its shape].
        through: As above; otherwise rows stop at the first activations, where middle = 0 and
            g = f.

    Yields:
        Steps of kind "slope" or "input", and M of each: float64 [m, *shape].
    """
    waiting = {target: rows}
    for index in range(target, -1, -1):
        found = waiting.pop(index, None)
        if found is None:
            continue
        step = network.steps[index]
        if step.kind == "input":
            yield index, found
        elif step.kind == "slope":
            yield index, found
            if through and middle(step):
                _add(waiting, step.sources[0], found * middle(step))
        else:
            _pull(network, waiting, step, found)


def middle(step: Step) -> float:
    """Of the slopes, where they are those of each element."""
    return (step.low + step.high) / 2 if step.pointwise else 0.0


def gain(step: Step, through: bool) -> float:
    """Of what is left of a function when its middle slope is taken off, or not."""
    if through and step.pointwise:
        return (step.high - step.low) / 2
    return step.steepest


def _pull(
    network: Network, waiting: dict[int, np.ndarray], step: Step, rows: np.ndarray
) -> None:
    if step.kind == "linear":
        assert step.map is not None
        _add(waiting, step.sources[0], step.map.pull(rows))
    elif step.kind == "concat":
        start = 0
        for source in step.sources:
            end = start + network.steps[source].shape[step.axis]
            part = np.take(rows, range(start, end), axis=1 + step.axis)
            _add(waiting, source, part)
            start = end
    else:  # sums and masks: a mask changes nothing within the tensor's size
        for source in step.sources:
            _add(waiting, source, rows)


def _add(waiting: dict[int, np.ndarray], index: int, rows: np.ndarray) -> None:
    waiting[index] = waiting[index] + rows if index in waiting else rows
