"""Lipschitz bounds of a classifier's logits: product, LipLT and ECLipsE-Fast, the smallest.

LipLT (arXiv 2310.00116) for any graph: with every activation split into its middle slope and a
remainder g_k (`rows.pull_rows`), the value y that an activation or the output reads is

    y = M_0 * pixels + sum over k of M_k * g_k(y_k),
    L(y) <= ||M_0|| + sum over k of ||M_k|| * gain_k * L(y_k),

where M_k is the linear map that the network becomes behind g_k when activations are replaced
by their middle slopes. On a chain of ReLUs this is the paper's recursion; residual blocks need
nothing more.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

import numpy as np

from lipcompile.certifying.lipschitz.convolution import Convolution
from lipcompile.certifying.lipschitz.eclipse import Tail, find_tail, gram_norms, tail_gram
from lipcompile.certifying.lipschitz.network import Network, Step
from lipcompile.certifying.lipschitz.norms import matrix_norm, outwards, top_eigenvalue
from lipcompile.certifying.lipschitz.reading import read_network
from lipcompile.certifying.lipschitz.rows import gain, pull_rows
from lipcompile.certifying.lipschitz.spectra import pull_spectra, torus_gain
from lipcompile.certifying.lipschitz.torus import Place, places
from lipcompile.errors import ModelError
from lipcompile.labelled import Normalisation
from lipcompile.model_io import LoadedModel

# Complex multiplications that the maps in front of one activation, and of all, may take: some
# ten seconds and a minute.
_MOST_WORK, _MOST_WORK_IN_ALL = 1e10, 4e10
_OVERHEAD = 200  # of a product of small matrices, per row
_MOST_ELEMENTS = 1 << 27  # of rows that are pulled back at a time


@dataclass(frozen=True, slots=True, eq=False)
class LipschitzBounds:
    """Upper bounds of how fast logits change with the pixels in [0, 1], in l2.

    They hold for the network in real numbers, at any image of this size, also outside of
    [0, 1]; rounding at inference is not covered.

    Attributes:
        pairwise: float64 [K, K]: of z_i - z_j; symmetric, 0 on the diagonal.
        per_logit: float64 [K]: of z_i.
        whole: Of the vector of logits.
        product: The product bound of the same vector: norms multiplied, branches added.
        by_method: Bounds of the vector by "product", "LipLT" and, where the network ends in a
            chain that is small enough, "ECLipsE-Fast".
        layers: Label and norm of each linear map, in order.
        notes: What was left out.
    """

    pairwise: np.ndarray
    per_logit: np.ndarray
    whole: float
    product: float
    by_method: dict[str, float]
    layers: tuple[tuple[str, float], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.pairwise.shape == (len(self.per_logit),) * 2


def lipschitz_bounds(
    model: LoadedModel,
    normalisation: Normalisation,
    dims: tuple[int, int, int],
    scores: str | None = None,
) -> LipschitzBounds:
    """Bounds of the logits as functions of the pixels.

    Args:
        model: The classifier; of one that ends in Softmax, what that reads.
        normalisation: How pixels become its input.
        dims: (channels, height, width) of the pixels.
        scores: The output with the scores; None finds it.

    Raises:
        ModelError: A part of the model has no finite bound; the message names it.
    """
    return network_bounds(read_network(model, normalisation, dims, scores))


def network_bounds(network: Network) -> LipschitzBounds:
    """Bounds of a network's last step."""
    found = _Bounds(network, places(network))
    found.run()
    pairs, single, by_method = found.logits()
    whole = min(by_method.values())
    single = np.minimum(single, whole)
    pairs = np.minimum(pairs, single[:, None] + single)
    # |z_i - z_j| <= sqrt(2) * ||z||.
    pairs = np.minimum(pairs, outwards(2**0.5) * whole)
    np.fill_diagonal(pairs, 0.0)
    if not (np.isfinite(pairs).all() and np.isfinite(whole)):
        raise ModelError(
            f"'{network.name}' has weights so large that its Lipschitz bound is no finite "
            "number: check the weights for damage"
        )
    layers = tuple(
        (step.label, found.norms[index])
        for index, step in enumerate(network.steps)
        if step.kind == "linear"
    )
    return LipschitzBounds(
        pairs, single, whole, by_method["product"], by_method, layers, tuple(found.notes)
    )


@dataclass(slots=True)
class _Bounds:
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
        if not self._fits(index, size):
            return False
        rows = np.eye(size).reshape(size, *step.shape)
        total = 0.0
        for source, found in pull_rows(self.network, index, rows, through=True):
            norm = matrix_norm(found.reshape(size, -1))
            total += norm * self._weight(source, through=True)
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

    def _weight(self, index: int, *, through: bool) -> float:
        """What the norm of the map behind a step is multiplied by."""
        step = self.network.steps[index]
        if step.kind == "input":
            return 1.0
        return gain(step, through) * self.best[step.sources[0]]

    def _torus_weight(self, index: int) -> float:
        step = self.network.steps[index]
        if step.kind in ("slope", "mask") and step.sources[0] in self.places:
            return torus_gain(step, True) * self.best[step.sources[0]]
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

    def _fits(self, index: int, rows: int) -> bool:
        largest = max(int(np.prod(step.shape)) for step in self.network.steps[: index + 1])
        return rows * largest <= _MOST_ELEMENTS

    def logits(self) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
        """Bounds of differences, of single logits, and of the vector by method."""
        last, network = len(self.network.steps) - 1, self.network
        by_method = {"product": self.plain[last]}
        ways = [self._by_rows(through) for through in self._ways(last)]
        by_method["LipLT"] = min([self.best[last], *(whole for _, _, whole in ways)])
        tail = find_tail(network)
        if tail is not None:
            ways.append(self._by_tail(tail))
            by_method["ECLipsE-Fast"] = ways[-1][2]
        pairs = np.min([pairs for pairs, _, _ in ways], axis=0)
        single = np.min([single for _, single, _ in ways], axis=0)
        return pairs, single, by_method

    def _ways(self, last: int) -> list[bool]:
        """Whether rows are pulled through activations; always also up to the last ones."""
        if self._fits(last, self.network.classes):
            return [True, False]
        self.notes.append("LipLT was left out behind the last activations: it is too large")
        return [False]

    def _by_rows(self, through: bool) -> tuple[np.ndarray, np.ndarray, float]:
        network, count = self.network, self.network.classes
        last = len(network.steps) - 1
        rows = np.eye(count).reshape(count, *network.steps[last].shape)
        grams, weights = [], []
        for source, found in pull_rows(network, last, rows, through=through):
            flat = found.reshape(count, -1)
            grams.append(flat @ flat.T)
            weights.append(self._weight(source, through=through))
        pairs, single = gram_norms(grams, weights)
        return pairs, single, _whole(grams, weights)

    def _by_tail(self, tail: Tail) -> tuple[np.ndarray, np.ndarray, float]:
        step = self.network.steps[tail.start]
        weight = 1.0 if step.kind == "input" else self.best[tail.start]
        g = tail_gram(tail)
        pairs, single = gram_norms([g], [weight])
        return pairs, single, _whole([g], [weight])


def _whole(grams: list[np.ndarray], weights: list[float]) -> float:
    """A bound of the vector: sum over k of weights[k] * sqrt(lambda_max(G_k))."""
    tops = [top_eigenvalue(g) ** 0.5 for g in grams]
    return outwards(sum(map(operator.mul, weights, tops)))


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
