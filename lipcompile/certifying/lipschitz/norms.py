"""Upper bounds of spectral norms, in float64 and rounded outwards.

A largest singular value is computed from the eigenvalues of a Gram matrix, by LAPACK, whose
error is at most p(n) * 2^-52 times the norm, with p a low polynomial of the size n. What is
returned is larger by `SLACK`, which is far above that for any size that fits into memory. The
same slack pays for the rounding of the products that lead to the matrix.

What is *not* used, since it gives lower bounds: power iteration, and the norm of a kernel that
is reshaped to a matrix.
"""

from __future__ import annotations

import numpy as np

SLACK = 1e-9  # relative; see tests/certifying/lipschitz/test_norms.py
_SQUARINGS = 3
_ROUGH = 1e-3  # relative error of numbers that only sort
_LEAST = 1e-290
_SMALL = 384
_STEPS = 48
_FIRST_MARGIN = 1e-3


def outwards(value: float) -> float:
    """A little more than `value`, which is not negative."""
    return value * (1 + SLACK)


def matrix_norm(matrix: np.ndarray) -> float:
    """An upper bound of the largest singular value of a float64 matrix [m, n]."""
    return float(matrix_norms(matrix[None])[0])


def matrix_norms(matrices: np.ndarray) -> np.ndarray:
    """Upper bounds of the largest singular value of each matrix.

    Args:
        matrices: [F, m, n], float64 or complex128.

    Returns:
        float64 [F].
    """
    count, m, n = matrices.shape
    if not m * n:
        return np.zeros(count)
    if min(m, n) == 1:
        roots: np.ndarray = np.sqrt((np.abs(matrices) ** 2).sum(axis=(1, 2)))
        return roots * outwards(1)
    return np.sqrt([top_eigenvalue(g) for g in gram(matrices)]) * outwards(1)


def gram(matrices: np.ndarray) -> np.ndarray:
    """A A^H or A^H A, whichever is smaller, for each matrix A of [..., m, n]."""
    adjoint = matrices.conj().swapaxes(-1, -2)
    m, n = matrices.shape[-2:]
    product: np.ndarray = matrices @ adjoint if m <= n else adjoint @ matrices
    return product


def top_eigenvalue(matrix: np.ndarray) -> float:
    """An upper bound of the largest eigenvalue of a positive semidefinite matrix [m, m].

    Of a large one it is guessed by the Lanczos method and then *proven*: a Cholesky
    factorisation of guess * I - matrix exists in floats only where it exists up to an error of
    m * 2^-52 times the guess. Where it does not, the guess is raised. That takes a quarter of
    the time.
    """
    if not np.isfinite(matrix).all():
        return np.inf
    if len(matrix) <= _SMALL:
        return (
            outwards(max(float(np.linalg.eigvalsh(matrix)[-1]), 0.0)) if len(matrix) else 0.0
        )
    guess, margin = _ritz(matrix), _FIRST_MARGIN
    while guess > 0:
        try:
            np.linalg.cholesky(guess * (1 + margin) * np.eye(len(matrix)) - matrix)
            return outwards(guess * (1 + margin))
        except np.linalg.LinAlgError:
            margin *= 4
    return outwards(float(np.abs(matrix).sum(axis=1).max()))


def _ritz(matrix: np.ndarray) -> float:
    """A lower bound of the largest eigenvalue, mostly close to it: the Lanczos method."""
    vector = np.random.default_rng(0).standard_normal(len(matrix)).astype(matrix.dtype)
    basis = np.zeros((_STEPS, len(matrix)), matrix.dtype)
    images = np.zeros_like(basis)
    for step in range(_STEPS):
        for _ in range(2):  # once is not enough against rounding
            vector = vector - basis[:step].T @ (basis[:step].conj() @ vector)
        norm = float(np.linalg.norm(vector))
        if not norm or not np.isfinite(norm):
            break
        basis[step] = vector / norm
        images[step] = vector = matrix @ basis[step]
    return float(np.linalg.eigvalsh(basis.conj() @ images.T)[-1])


def largest_norm(grams: np.ndarray, floor: float = 0.0) -> float:
    """An upper bound of the square root of the largest eigenvalue among Gram matrices.

    Gram iteration (arXiv 2305.16173): for a positive semidefinite G

        lambda_max(G) <= ||G^p||_F^(1/p),   p = 2^t,

    which is cheap, and at most m^(1/2p) too large. With t = 0, 1, 2, ... fewer and fewer
    matrices may hold the largest one; eigenvalues are computed of those alone.

    Args:
        grams: Positive semidefinite, [F, m, m].
        floor: A norm that is known already; smaller ones need not be told apart.
    """
    if not grams.size:
        return floor
    # Only what is left out rests on these numbers, with a margin of their own precision.
    traces = np.einsum("fii->f", grams).real
    if not np.isfinite(traces).all():
        return np.inf
    scale = np.maximum(traces, _LEAST)
    single = np.complex64 if np.iscomplexobj(grams) else np.float32
    powers = (grams / scale[:, None, None]).astype(single)
    left, best = np.arange(len(grams)), floor
    for squarings in range(_SQUARINGS + 1):
        limits = np.sqrt(scale[left] * _norms(powers) ** (0.5**squarings)) * (1 + _ROUGH)
        first = int(limits.argmax())
        if limits[first] <= best:
            return best
        best = max(best, outwards(top_eigenvalue(grams[left[first]]) ** 0.5))
        keep = (limits > best) & (np.arange(len(left)) != first)
        left, powers, limits = left[keep], powers[keep], limits[keep]
        if not len(left):
            return best
        if squarings < _SQUARINGS:
            powers = powers @ powers
    for index in np.argsort(limits)[::-1]:
        if limits[index] <= best:
            break
        best = max(best, outwards(top_eigenvalue(grams[left[index]]) ** 0.5))
    return best


def _norms(matrices: np.ndarray) -> np.ndarray:
    flat = matrices.reshape(len(matrices), -1)
    squares = flat.real.astype(np.float64) ** 2 + flat.imag.astype(np.float64) ** 2
    norms: np.ndarray = np.sqrt(squares.sum(axis=1))
    return norms
