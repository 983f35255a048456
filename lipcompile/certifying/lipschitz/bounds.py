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
from dataclasses import dataclass

import numpy as np

from lipcompile.certifying.lipschitz.eclipse import Tail, find_tail, gram_norms, tail_gram
from lipcompile.certifying.lipschitz.network import Network
from lipcompile.certifying.lipschitz.norms import outwards, top_eigenvalue
from lipcompile.certifying.lipschitz.reading import read_network
from lipcompile.certifying.lipschitz.rows import pull_rows
from lipcompile.certifying.lipschitz.stepwise import StepBounds
from lipcompile.certifying.lipschitz.torus import places
from lipcompile.errors import ModelError
from lipcompile.labelled import Normalisation
from lipcompile.model_io import LoadedModel


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
    found = StepBounds(network, places(network))
    with np.errstate(over="ignore", invalid="ignore"):  # infinite bounds are refused below
        found.run()
        pairs, single, by_method = _logits(found)
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


def _logits(known: StepBounds) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Bounds of differences, of single logits, and of the vector by method."""
    last = len(known.network.steps) - 1
    by_method = {"product": known.plain[last]}
    ways = [_by_rows(known, through) for through in _ways(known, last)]
    by_method["LipLT"] = min([known.best[last], *(whole for _, _, whole in ways)])
    tail = find_tail(known.network)
    if tail is not None:
        ways.append(_by_tail(known, tail))
        by_method["ECLipsE-Fast"] = ways[-1][2]
    pairs = np.min([pairs for pairs, _, _ in ways], axis=0)
    single = np.min([single for _, single, _ in ways], axis=0)
    return pairs, single, by_method


def _ways(known: StepBounds, last: int) -> list[bool]:
    """Whether rows are pulled through activations; always also up to the last ones."""
    if known.fits(last, known.network.classes):
        return [True, False]
    known.notes.append("LipLT was left out behind the last activations: it is too large")
    return [False]


def _by_rows(known: StepBounds, through: bool) -> tuple[np.ndarray, np.ndarray, float]:
    network, count = known.network, known.network.classes
    last = len(network.steps) - 1
    rows = np.eye(count).reshape(count, *network.steps[last].shape)
    grams, weights = [], []
    for source, found in pull_rows(network, last, rows, through=through):
        flat = found.reshape(count, -1)
        grams.append(flat @ flat.T)
        weights.append(known.weight(source, through=through))
    pairs, single = gram_norms(grams, weights)
    return pairs, single, _whole(grams, weights)


def _by_tail(known: StepBounds, tail: Tail) -> tuple[np.ndarray, np.ndarray, float]:
    step = known.network.steps[tail.start]
    weight = 1.0 if step.kind == "input" else known.best[tail.start]
    g = tail_gram(tail)
    pairs, single = gram_norms([g], [weight])
    return pairs, single, _whole([g], [weight])


def _whole(grams: list[np.ndarray], weights: list[float]) -> float:
    """A bound of the vector: sum over k of weights[k] * sqrt(lambda_max(G_k))."""
    tops = [top_eigenvalue(g) ** 0.5 for g in grams]
    return outwards(sum(map(operator.mul, weights, tops)))
