"""Upper bounds of eigenvalues: above the exact ones by a slack and a margin."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from lipcompile.certifying.lipschitz import norms
from lipcompile.certifying.lipschitz.norms import (
    SLACK,
    gram,
    largest_norm,
    matrix_norm,
    matrix_norms,
    top_eigenvalue,
)

LARGE = norms._SMALL + 20
SCALES = [1e-30, 1e-22, 1.0, 1e22, 1e30]


def with_values(values: np.ndarray, m: int, *, is_complex: bool = False) -> np.ndarray:
    """A matrix [m, n] whose singular values are known; n = len(values)."""
    rng = np.random.default_rng(0)

    def basis(rows: int) -> np.ndarray:
        drawn = rng.standard_normal((rows, len(values)))
        if is_complex:
            drawn = drawn + 1j * rng.standard_normal(drawn.shape)
        return np.linalg.qr(drawn)[0]

    return (basis(m) * values) @ basis(len(values)).conj().T


SPECTRA = {
    "spread": lambda n: np.linspace(0, 1, n),
    "all alike": lambda n: np.ones(n),
    "almost alike": lambda n: 1 - np.arange(n) * 1e-10,
    "rank one": lambda n: np.eye(n)[0],
    "one that stands out": lambda n: np.where(np.arange(n) == 3, 1.0, 1e-3),
}


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("size", [1, 5, LARGE])
@pytest.mark.parametrize("name", SPECTRA)
def test_known_largest_value(name: str, size: int, is_complex: bool) -> None:
    values = SPECTRA[name](size)
    exact = float(values.max())
    matrix = with_values(values, size + 3, is_complex=is_complex)
    for scale in SCALES if size < LARGE else [1e-30]:
        scaled = matrix * scale
        # The first margin of a large matrix, of its square: half of that of the norm.
        loose = 1e-8 if size < LARGE else 1e-3
        methods = [matrix_norm(scaled)]
        if size < LARGE:
            methods.append(largest_norm(gram(scaled[None])))
        for found in methods:
            assert exact * scale * (1 - 1e-12) <= found <= exact * scale * (1 + loose)


@pytest.mark.parametrize("size", [3, LARGE])
def test_zero_matrix(size: int) -> None:
    zero = np.zeros((size, size))
    assert top_eigenvalue(zero) == matrix_norm(zero) == largest_norm(zero[None]) == 0.0
    assert matrix_norms(np.zeros((2, 0, 3))).tolist() == [0.0, 0.0]
    assert largest_norm(np.zeros((0, 2, 2)), 3.0) == 3.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [3, LARGE])
def test_what_is_not_finite_has_no_finite_bound(value: float, size: int) -> None:
    matrix = np.eye(size)
    matrix[1, 1] = value
    assert top_eigenvalue(matrix) == np.inf
    assert largest_norm(np.stack([np.eye(size), matrix])) == np.inf


def test_largest_of_many_with_and_without_a_floor() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 50):
        for scale in SCALES:
            parts = (
                rng.standard_normal((count, 4, 6)) * np.geomspace(1, 3, count)[:, None, None]
            )
            parts = parts + 1j * rng.standard_normal(parts.shape)
            grams = gram(parts * scale)
            exact = np.linalg.norm(parts, 2, axis=(1, 2)).max() * scale
            found = largest_norm(grams)
            assert exact * (1 - 1e-12) <= found <= exact * (1 + 1e-8)
            assert largest_norm(grams, 2 * exact) == 2 * exact
            assert largest_norm(grams, 0.9 * exact) == found


def test_norms_that_differ_by_many_orders() -> None:
    """Each matrix is judged by its own scale."""
    grams = gram(np.random.default_rng(0).standard_normal((60, 3, 3)))
    scaled = grams * np.geomspace(1e-60, 1e-10, 60)[:, None, None]
    exact = np.sqrt(np.linalg.eigvalsh(scaled)[:, -1].max())
    assert exact <= largest_norm(scaled) <= exact * (1 + 1e-8)


def lucas(size: int) -> tuple[np.ndarray, Fraction]:
    """An integer matrix with a rational lower bound of its squared norm, from a vector: exact
    arithmetic, by Rayleigh's quotient."""
    rng = np.random.default_rng(size)
    matrix = rng.integers(-9, 10, (size, size))
    vector = np.linalg.svd(matrix.astype(float))[2][0]
    whole = [int(v * 2**40) for v in vector]
    image = [sum(int(a) * v for a, v in zip(row, whole, strict=True)) for row in matrix]
    square = Fraction(sum(v * v for v in image), sum(v * v for v in whole))
    return matrix.astype(float), square


@pytest.mark.parametrize("size", [2, 7, 40])
def test_exact_arithmetic_finds_nothing_larger(size: int) -> None:
    matrix, square = lucas(size)
    found = Fraction(matrix_norm(matrix)) ** 2
    assert square < found < square * Fraction(1 + 4 * SLACK)
    # Without the slack, rounding alone would decide: the check tells 1e-15 apart.
    assert Fraction(matrix_norm(matrix) * (1 - 3 * SLACK)) ** 2 < square


def test_slack_covers_the_rounding_of_long_products() -> None:
    """Forty products of 64 x 64 matrices in float64, against extended precision."""
    rng = np.random.default_rng(0)
    product, exact = np.eye(64), np.eye(64, dtype=np.longdouble)
    for _ in range(40):
        factor = rng.standard_normal((64, 64)) / 8
        product, exact = factor @ product, factor.astype(np.longdouble) @ exact
    vector = np.linalg.svd(product)[2][0].astype(np.longdouble)
    truth = np.sqrt(((exact @ vector) ** 2).sum() / (vector**2).sum())
    assert abs(np.linalg.norm(product, 2) / truth - 1) < SLACK / 10
    assert matrix_norm(product) > truth


def test_large_matrix_is_proven_and_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guess that is far too low is found out."""
    matrix = gram(with_values(np.linspace(0, 1, LARGE), LARGE))
    for guess in (0.5, 1e-8, -1.0):
        monkeypatch.setattr(norms, "_ritz", lambda _, guess=guess: guess)
        assert top_eigenvalue(matrix) >= 1.0
