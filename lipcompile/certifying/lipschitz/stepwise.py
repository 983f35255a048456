"""Lipschitz bounds of every step of a network: products of norms, and LipLT where it pays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lipcompile.certifying.lipschitz.convolution import Convolution
from lipcompile.certifying.lipschitz.network import Network, Step
from lipcompile.certifying.lipschitz.norms import matrix_norm, outwards
from lipcompile.certifying.lipschitz.rows import gain, pull_rows
from lipcompile.certifying.lipschitz.spectra import pull_spectra, torus_gain
from lipcompile.certifying.lipschitz.torus import Place

# Complex multiplications that the maps in front of one activation, and of all, may take: some
# ten seconds and a minute.
_MOST_WORK, _MOST_WORK_IN_ALL = 1e10, 4e10
_OVERHEAD = 200  # of a product of small matrices, per row
_MOST_ELEMENTS = 1 << 27  # of rows that are pulled back at a time


@dataclass(slots=True)
class StepBounds:
    """What is known of each step so far.

    Attributes:
        network: The network.
        places: Steps on a torus.
        best: By step: of its whole torus, where it has one, else of its value.
        plain: Likewise, the product bound alone.
        norms: Of the linear maps.
        notes: What was left out.
        work: Multiplications so far.
    """

    network: Network
    places: dict[int, Place]
    best: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    norms: dict[int, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    work: float = 0.0

    def run(self) -> None:
        """Bounds every step; those that activations read by LipLT as well."""
        steps = self.network.steps
        read = {source for step in steps if step.kind == "slope" for source in step.sources}
        left = []
        for index, step in enumerate(steps):
            self._product(index, step)
            if index in read and self._is_composed(index) and not self._liplt(index):
                left.append(step.label)
        if left:
            self.notes.append(
                f"LipLT was left out in front of {len(left)} activations, the first of them "
                f"behind {left[0]}, where it would take too long; the product of norms "
                "stands there"
            )

    def _product(self, index: int, step: Step) -> None:
        norm = self.norm_of(index, step)
        for known in (self.best, self.plain):
            before = [known[source] for source in step.sources]
            known.append(_combined(step, norm, before))

    def norm_of(self, index: int, step: Step) -> float:
        """Of a step's map, on its torus where it has one."""
        if step.map is None:
            return 1.0
        place = self.places.get(step.sources[0])
        if isinstance(step.map, Convolution) and place is not None:
            norm = step.map.torus_norm(place.size)
        else:
            norm = step.map.norm()
        self.norms[index] = norm
        return norm

    def _is_composed(self, index: int) -> bool:
        """Whether more than one map or sum leads to it from the last activations."""
        return self.network.steps[index].kind not in ("slope", "input")

    def _liplt(self, index: int) -> bool:
        """Improves the bounds of one step; False where that would take too long."""
        if index in self.places:
            return self._liplt_on_torus(index)
        step = self.network.steps[index]
        size = int(np.prod(step.shape))
        if not self.fits(index, size):
            return False
        rows = np.eye(size).reshape(size, *step.shape)
        total = 0.0
        for source, found in pull_rows(self.network, index, rows, through=True):
            norm = matrix_norm(found.reshape(size, -1))
            total += norm * self.weight(source, through=True)
        self.best[index] = min(self.best[index], outwards(total))
        return True

    def _liplt_on_torus(self, index: int) -> bool:
        self.work += (work := self._torus_work(index))
        if work > _MOST_WORK or self.work > _MOST_WORK_IN_ALL:
            self.work -= work
            return False
        total = 0.0
        for source, norm in pull_spectra(self.network, index, self.places).items():
            total += norm * self._torus_weight(source)
        self.best[index] = min(self.best[index], outwards(total))
        return True

    def weight(self, index: int, *, through: bool) -> float:
        """What the norm of the map behind a step is multiplied by."""
        step = self.network.steps[index]
        if step.kind == "input":
            return 1.0
        return gain(step, through) * self.best[step.sources[0]]

    def _torus_weight(self, index: int) -> float:
        step = self.network.steps[index]
        if step.kind in ("slope", "mask") and step.sources[0] in self.places:
            return torus_gain(step) * self.best[step.sources[0]]
        return self.best[index]  # where spectra end: the value itself

    def _torus_work(self, index: int) -> float:
        """Multiplications that pulling spectra back takes, roughly: products with symbols, and
        the Gram matrices of what arrives at activations."""
        place, step = self.places[index], self.network.steps[index]
        assert step.grid is not None
        channels, work = step.shape[step.grid.channel], 0.0
        for other in range(index + 1):
            at = self.places.get(other)
            before = self.network.steps[other]
            if at is None or before.grid is None or len(at.size) != len(place.size):
                continue
            finer = max(1.0, float(np.prod(at.ratio) / np.prod(place.ratio)))
            width = before.shape[before.grid.channel]
            if isinstance(before.map, Convolution):
                inner = before.map.weight.shape[1] * np.prod(before.map.strides)
                work += finer * channels * (width * inner + _OVERHEAD)
            elif before.kind in ("slope", "mask"):
                smaller = min(channels, finer * width)
                work += smaller * (channels * finer * width + 4 * smaller**2 + _OVERHEAD)
        return work * float(np.prod(place.size)) / 2

    def fits(self, index: int, rows: int) -> bool:
        """Whether so many rows of a step can be pulled back through all before it."""
        largest = max(int(np.prod(step.shape)) for step in self.network.steps[: index + 1])
        return rows * largest <= _MOST_ELEMENTS


def _combined(step: Step, norm: float, before: list[float]) -> float:
    """The bound of a step by those of its sources."""
    match step.kind:
        case "input":
            return 1.0
        case "linear":
            return outwards(norm * before[0])
        case "sum":
            return outwards(sum(before))
        case "concat":
            return outwards(float(np.sqrt(sum(b * b for b in before))))
        case "slope":
            return outwards(step.steepest * before[0])
        case _:
            return before[0]
