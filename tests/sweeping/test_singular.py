"""Singular values of masked weights, against NumPy's SVD."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lipcompile.sweeping import singular
from lipcompile.sweeping.singular import masked_ratios

Ratios = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Groups, rows, columns: fewer and more than the steps, wide, tall, one of each.
SHAPES = [
    *((1, 1, 1), (1, 1, 9), (3, 1, 9), (1, 9, 1), (1, 48, 70), (1, 49, 70), (1, 90, 20)),
    *((4, 12, 18), (2, 60, 30), (2, 60, 130), (1, 64, 64), (8, 2, 3)),
]


def by_svd(weight: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The definition, in float64."""
    largest = np.abs(weight).max()
    wide = weight.astype(np.float64) / largest
    whole = max(np.linalg.norm(one, 2) for one in wide)
    masked = [
        max(
            np.linalg.norm(one * mask, 2) for one, mask in zip(wide, kept[..., n], strict=True)
        )
        for n in range(kept.shape[2])
    ]
    return np.array(masked) / whole


def masks(rng: np.random.Generator, shape: tuple[int, int, int], count: int = 7) -> np.ndarray:
    """Nothing masked, everything masked, and shares between."""
    groups, _, columns = shape
    shares = np.linspace(0, 1, count)
    kept = rng.random((groups, columns, count)) < shares
    kept[..., 0], kept[..., -1] = False, True
    return kept


def spectrum(values: np.ndarray, columns: int, seed: int = 0) -> np.ndarray:
    """A matrix [1, len(values), columns] with these singular values."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    right = np.linalg.qr(rng.standard_normal((columns, len(values))))[0]
    return ((left * values) @ right.T)[None].astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_what_svd_gives(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    weight, kept = rng.standard_normal(shape).astype(np.float32), masks(rng, shape)
    found = masked_ratios(weight, kept)
    assert found.shape == (7,) and found.dtype == np.float64
    assert found.max() <= 1
    assert found[0] == 0  # everything masked
    assert found[-1] == pytest.approx(1, abs=1e-6)  # nothing masked
    np.testing.assert_allclose(found, by_svd(weight, kept), atol=1e-5)


@pytest.mark.parametrize("scale", [1e-300, 1e-42, 1e-30, 1.0, 1e30, 1e300])
def test_tiny_and_huge_weights_neither_vanish_nor_overflow(scale: float) -> None:
    rng = np.random.default_rng(0)
    weight, kept = rng.standard_normal((1, 60, 50)), masks(rng, (1, 60, 50))
    expected = masked_ratios(weight, kept)
    np.testing.assert_allclose(masked_ratios(weight * scale, kept), expected, atol=1e-6)


HARD = {
    "the largest lie close together": np.linspace(1, 0.99, 150),
    "all are equal": np.ones(150),
    "three close ones stand out": np.r_[1, 0.9995, 0.999, np.full(147, 0.5)],
    "they decay": 0.9 ** np.arange(150.0),
    "only one": np.r_[1, np.zeros(149)],
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("columns", [150, 400])
def test_hard_spectra_within_a_thousandth(name: str, columns: int) -> None:
    weight = spectrum(HARD[name], columns)
    kept = masks(np.random.default_rng(1), (1, 150, columns))
    exact = by_svd(weight, kept)
    found = masked_ratios(weight, kept)
    assert np.abs(found - exact).max() < 1e-3 * exact.max()


def hidden_direction() -> tuple[np.ndarray, np.ndarray]:
    """The mask leaves 0.75 of the leading direction, and 0.77 at a right angle to it."""
    weight = np.zeros((1, 64, 80), np.float32)
    weight[0, 0, :2], weight[0, 1, 2] = 0.75, 0.77
    for row in range(2, 60):
        weight[0, row, row + 1] = 0.3
    kept = np.ones((1, 80, 1), bool)
    kept[0, 1] = False
    return weight, kept


def test_a_direction_that_the_whole_weight_hides_is_found() -> None:
    weight, kept = hidden_direction()
    assert masked_ratios(weight, kept) == pytest.approx(0.77 / (0.75 * 2**0.5), rel=1e-5)


def test_a_group_that_is_masked_whole_leaves_the_others() -> None:
    weight = np.stack([np.eye(60), 0.5 * np.eye(60)]).astype(np.float32)
    kept = np.ones((2, 60, 2), bool)
    kept[0, :, 1] = False
    np.testing.assert_allclose(masked_ratios(weight, kept), [1, 0.5], rtol=1e-6)


@pytest.mark.parametrize("rows", [4, 60])
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_nothing_is_claimed_of_zero_and_of_what_is_not_finite(rows: int, value: float) -> None:
    weight = np.zeros((1, rows, 5), np.float32)
    weight[0, 0, 0] = value
    kept = np.zeros((1, 5, 3), bool)
    np.testing.assert_array_equal(masked_ratios(weight, kept), np.ones(3))


def test_parts_of_many_masks_give_what_each_mask_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(3)
    weight, kept = rng.standard_normal((1, 70, 90)), rng.random((1, 90, 200)) < 0.5
    whole = masked_ratios(weight, kept)
    monkeypatch.setattr(singular, "_NUMBERS", 70 * 40 * 9)
    np.testing.assert_allclose(masked_ratios(weight, kept), whole, atol=1e-6)
    each = [masked_ratios(weight, kept[..., n : n + 1])[0] for n in range(0, 200, 37)]
    np.testing.assert_allclose(whole[::37], each, atol=1e-6)


# Planted


def unmasked(weight: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return masked_ratios(weight, np.ones_like(kept))


def of_rows(weight: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Masks rows of a square weight instead of columns."""
    return masked_ratios(weight.transpose(0, 2, 1), kept)


def of_the_norm(weight: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The Frobenius norm, which is larger."""
    masked = weight[..., None] * kept[:, None]
    ratios: np.ndarray = np.sqrt((masked**2).sum(axis=(0, 1, 2)) / (weight**2).sum())
    return ratios


def power_iteration(weight: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Twenty steps from the leading direction of the whole weight."""
    whole, start = np.linalg.svd(weight[0])[1:]
    vectors = start[:1].T * kept[0]
    for _ in range(20):
        vectors = kept[0] * (weight[0].T @ (weight[0] @ vectors))
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=0), 1e-30)
    ratios: np.ndarray = np.linalg.norm(weight[0] @ vectors, axis=0) / whole[0]
    return ratios


@pytest.mark.parametrize("wrong", [unmasked, of_rows, of_the_norm])
def test_planted_wrong_ratios_are_caught(wrong: Ratios) -> None:
    rng = np.random.default_rng(64)
    weight = rng.standard_normal((1, 64, 64)).astype(np.float32)
    kept = masks(rng, (1, 64, 64))
    assert np.abs(wrong(weight, kept) - by_svd(weight, kept)).max() > 1e-2


def test_planted_power_iteration_rests_on_the_wrong_direction() -> None:
    weight, kept = hidden_direction()
    assert abs(power_iteration(weight, kept) - by_svd(weight, kept)) > 1e-2


def test_planted_few_steps_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(singular, "_STEPS", 5)
    weight = spectrum(HARD["the largest lie close together"], 400)
    kept = masks(np.random.default_rng(1), (1, 150, 400))
    assert np.abs(masked_ratios(weight, kept) - by_svd(weight, kept)).max() > 1e-3
