"""Pulls the channels of one step, as functions on a torus, back frequency by frequency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from lipcompile.certifying.lipschitz.convolution import Convolution, aliases, half_grid
from lipcompile.certifying.lipschitz.maps import Dense, LinearMap, Scale, Selection, Shape
from lipcompile.certifying.lipschitz.network import Network, Step
from lipcompile.certifying.lipschitz.norms import gram, largest_norm
from lipcompile.certifying.lipschitz.one_thread import on_one_thread
from lipcompile.certifying.lipschitz.torus import Place, passes

_MOST = 1 << 23  # complex numbers of one step's spectrum that are held at a time


@dataclass(frozen=True, slots=True, eq=False)
class Spectra:
    """The matrices that lead from a step to another one, at some frequencies of the latter.

    Attributes:
        matrices: complex128 [F, A, m, c]: A frequencies of the finer grid look alike on the
            coarser one.
        frequencies: int [F, d], of the coarser grid.
        coarse: Length of its axes.
        ratio: How much finer the grid is that the matrices act on.
    """

    matrices: np.ndarray
    frequencies: np.ndarray
    coarse: Shape
    ratio: Shape

    def through(self, linear: LinearMap, channel: int, place: Place) -> Spectra:
        """Pulled back through a map of `passes`.

        Args:
            linear: The map.
            channel: Axis of the channels of its input.
            place: Of its input.
        """
        if isinstance(linear, Convolution):
            return self._through_convolution(linear, place)
        return replace(self, matrices=_mixed(self.matrices, linear, channel))

    def _through_convolution(self, kernel: Convolution, place: Place) -> Spectra:
        ratio = tuple(r * s for r, s in zip(self.ratio, kernel.strides, strict=True))
        fine = aliases(ratio)
        frequencies = self.frequencies[:, None] + fine * np.array(self.coarse)
        symbol = kernel.symbol(frequencies, place.size) / np.prod(kernel.strides) ** 0.5
        # Which frequency of the output each frequency of the input is an alias of.
        known = np.ravel_multi_index(tuple((fine % self.ratio).T), self.ratio)
        rows = self.matrices[:, known]
        count, many, m = rows.shape[:3]
        grouped = rows.reshape(count, many, m, kernel.groups, -1).swapaxes(2, 3)
        pulled = (grouped @ symbol).swapaxes(2, 3).reshape(count, many, m, -1)
        return replace(self, matrices=pulled, ratio=ratio)

    def plus(self, other: Spectra | None) -> Spectra:
        """The sum of two functions of one step."""
        if other is None:
            return self
        assert self.ratio == other.ratio
        return replace(self, matrices=self.matrices + other.matrices)

    def times(self, factor: float) -> Spectra:
        return replace(self, matrices=self.matrices * factor)

    def channels(self, first: int, last: int) -> Spectra:
        """The part that acts on channels [first, last)."""
        return replace(self, matrices=self.matrices[..., first:last])

    def grams(self) -> np.ndarray:
        """The smaller Gram matrix of all that looks alike, [F, k, k]."""
        count, many, m, c = self.matrices.shape
        whole = self.matrices.swapaxes(1, 2).reshape(count, m, many * c)
        return gram(whole)


def _mixed(matrices: np.ndarray, linear: LinearMap, channel: int) -> np.ndarray:
    """Matrices [..., out] times a map of the channels alone."""
    if isinstance(linear, Scale):
        factors = linear.along(channel)
        assert factors is not None
        scaled: np.ndarray = matrices * factors
        return scaled
    if isinstance(linear, Dense):
        mixed: np.ndarray = matrices @ linear.matrix
        return mixed
    if isinstance(linear, Selection):
        chosen = linear.channels(channel)
        assert chosen is not None
        place = np.zeros((len(chosen), linear.in_shape[channel]))
        place[np.flatnonzero(chosen >= 0), chosen[chosen >= 0]] = 1.0
        return matrices @ place
    return matrices  # transposed or kept as they are: channels stay channels


@on_one_thread
def pull_spectra(
    network: Network, target: int, places: Mapping[int, Place]
) -> dict[int, float]:
    """Bounds of the norms of the maps that lead to a step on the torus.

    As `pull_rows` through activations, with the hull of 0 and the slopes: zeros beside the
    tensor are one more slope. A step that spectra cannot be pulled through is where they end.

    Args:
        network: The network.
        target: A step with a place.
        places: From `torus.places`.

    Returns:
        By step: "slope" and "mask" steps, and those where spectra end.
    """
    step, place = network.steps[target], places[target]
    assert step.grid is not None
    channels = step.shape[step.grid.channel]
    found: dict[int, float] = {}
    per = channels * max(
        int(np.prod(network.steps[i].shape[1:2])) * _finer(places[i], place)
        for i in range(target + 1)
        if i in places and len(places[i].size) == len(place.size)
    )
    for block in half_grid(place.size, max(1, _MOST // max(1, per))):
        start = np.broadcast_to(np.eye(channels), (len(block), 1, channels, channels))
        one = (1,) * len(place.size)
        spectra = Spectra(start.astype(complex), block, place.size, one)
        _pull_block(network, target, places, spectra, found)
    return found


def _finer(place: Place, than: Place) -> int:
    pairs = zip(place.ratio, than.ratio, strict=True)
    return int(np.prod([max(1, -(-a // b)) for a, b in pairs]))


def _pull_block(
    network: Network,
    target: int,
    places: Mapping[int, Place],
    spectra: Spectra,
    found: dict[int, float],
) -> None:
    waiting = {target: spectra}
    for index in range(target, -1, -1):
        here = waiting.pop(index, None)
        if here is None:
            continue
        step = network.steps[index]
        goes_on = passes(network, index) and all(s in places for s in step.sources)
        if step.kind in ("slope", "mask") or not goes_on:
            found[index] = largest_norm(here.grams(), found.get(index, 0.0))
            factor = torus_middle(step) if goes_on else 0.0
            if not factor:
                continue
            here = here.times(factor)
        for source, part in _parts(network, step, here, places):
            waiting[source] = part.plus(waiting.get(source))


def torus_middle(step: Step) -> float:
    """The middle of the hull of 0 and the slopes; that of a mask is 1/2."""
    if step.kind == "mask":
        return 0.5
    return (min(step.low, 0.0) + max(step.high, 0.0)) / 2 if step.pointwise else 0.0


def torus_gain(step: Step) -> float:
    """What is left of a function when `torus_middle` is taken off."""
    if step.kind == "mask":
        return 0.5
    if step.pointwise:
        return (max(step.high, 0.0) - min(step.low, 0.0)) / 2
    return step.steepest


def _parts(
    network: Network, step: Step, spectra: Spectra, places: Mapping[int, Place]
) -> list[tuple[int, Spectra]]:
    if step.kind == "linear":
        (source,) = step.sources
        before = network.steps[source]
        assert step.map is not None and before.grid is not None
        return [(source, spectra.through(step.map, before.grid.channel, places[source]))]
    if step.kind != "concat":
        return [(source, spectra) for source in step.sources]
    parts, start = [], 0
    for source in step.sources:
        end = start + network.steps[source].shape[step.axis]
        parts.append((source, spectra.channels(start, end)))
        start = end
    return parts
