"""ECLipsE-Fast (arXiv 2404.04375): bounds of a chain of matrices and slopes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lipcompile.certifying.lipschitz.network import Network
from lipcompile.certifying.lipschitz.norms import SLACK, outwards, top_eigenvalue
from lipcompile.certifying.lipschitz.rows import pull_rows

# Elements of a tensor whose matrix is written out: where that reaches back to the pixels, and
# where other bounds stand in front of the chain anyway.
_WIDEST, _WIDE = 4096, 1536


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """The last part of a network that is a chain of matrices.

    z_0 = the start; z_i = f_i(W_i z_{i-1}), f_i of each element with slopes in [0, steepest];
    logits = W_n z_{n-1}. The matrices hold the factors `steepest`, so that slopes are in
    [0, 1].

    Attributes:
        start: The step z_0, of kind "input" or "slope".
        matrices: W_1 to W_n.
    """

    start: int
    matrices: tuple[np.ndarray, ...]


def find_tail(network: Network) -> Tail | None:
    """The longest chain at the end whose tensors are small enough; None where there is none
    with an activation in it."""
    largest = max(int(np.prod(step.shape)) for step in network.steps)
    widest = _WIDEST if largest <= _WIDEST else _WIDE
    target = len(network.steps) - 1
    matrices: list[np.ndarray] = []
    start = None
    while np.prod(network.steps[target].shape) <= widest:
        size = int(np.prod(network.steps[target].shape))
        if _too_large(network, target, widest):
            break
        rows = np.eye(size).reshape(size, *network.steps[target].shape)
        found = list(pull_rows(network, target, rows, through=False))
        if len(found) != 1:
            break
        ((source, matrix),) = found
        step = network.steps[source]
        chained = step.kind == "slope" and step.pointwise and step.low >= 0
        matrices.append(matrix.reshape(size, -1) * (step.high if chained else 1.0))
        start = source
        if not chained:
            break
        target = step.sources[0]
    return None if start is None or len(matrices) < 2 else _tail(network, start, matrices)


def _too_large(network: Network, target: int, widest: int) -> bool:
    """Whether a tensor on the way to the next activations is larger than `widest`."""
    queue = [target]
    while queue:
        index = queue.pop()
        step = network.steps[index]
        if np.prod(step.shape) > widest:
            return True
        if step.kind not in ("slope", "input"):
            queue += step.sources
    return False


def _tail(network: Network, start: int, matrices: list[np.ndarray]) -> Tail:
    step = network.steps[start]
    if step.kind == "slope" and step.pointwise and step.low >= 0 and step.high:
        # The bound of the start is that of f(y), so that its slope is no factor here.
        matrices[-1] = matrices[-1] / step.high
    return Tail(start, tuple(reversed(matrices)))


def tail_gram(tail: Tail) -> np.ndarray:
    """G with |v . (logits(a) - logits(b))|^2 <= v^T G v * ||a - b||^2, a and b at the start.

    By induction, ||a - b||^2 >= d_i^T M_i d_i for d_i = z_i(a) - z_i(b): M_0 = I, and since
    d_i^T (W_i d_{i-1} - d_i) >= 0 for slopes in [0, 1], for any lambda >= 0

        ||a - b||^2 >= d_{i-1}^T M_{i-1} d_{i-1} - lambda d_i^T (W_i d_{i-1} - d_i)
                    >= d_i^T (lambda I - lambda^2 / 4 W_i M_{i-1}^-1 W_i^T) d_i,

    the minimum over d_{i-1}. lambda = 2 / ||W_i M_{i-1}^-1 W_i^T|| gives the M_i of
    ECLipsE-Fast, whose eigenvalues lie between lambda / 2 and lambda. G = W_n M_{n-1}^-1
    W_n^T.

    Returns:
        float64 [K, K], rounded outwards.
    """
    form: np.ndarray | None = None
    for matrix in tail.matrices[:-1]:
        spread = _spread(matrix, form)
        norm = top_eigenvalue(spread)
        if not norm:
            return np.zeros((len(tail.matrices[-1]),) * 2)
        form = 2 / norm * np.eye(len(spread)) - spread / norm**2
    bound: np.ndarray = _spread(tail.matrices[-1], form) * outwards(1)
    return bound


def _spread(matrix: np.ndarray, form: np.ndarray | None) -> np.ndarray:
    """W M^-1 W^T, M = I where it is None."""
    right = matrix.T if form is None else np.linalg.solve(form, matrix.T)
    spread = matrix @ right
    symmetric: np.ndarray = (spread + spread.T) / 2
    return symmetric


def gram_norms(
    grams: Sequence[np.ndarray], weights: Sequence[float]
) -> tuple[np.ndarray, ...]:
    """sum over k of weights[k] * sqrt(v^T G_k v) for rows v of interest.

    Returns:
        float64 [K, K] for v = e_i - e_j, and [K] for v = e_i; the difference is cancelled
        with a slack relative to what was there before.
    """
    count = len(grams[0])
    pairs, single = np.zeros((count, count)), np.zeros(count)
    for g, weight in zip(grams, weights, strict=True):
        diagonal = np.diag(g)
        whole = diagonal[:, None] + diagonal
        apart = np.maximum(whole - 2 * g, 0.0) + SLACK * whole
        pairs += weight * np.sqrt(apart)
        single += weight * np.sqrt(diagonal * (1 + SLACK))
    np.fill_diagonal(pairs, 0.0)
    return pairs * (1 + SLACK), single * (1 + SLACK)
