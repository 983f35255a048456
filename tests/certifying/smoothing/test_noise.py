"""Draw t of an image is a function of (seed, image, stream, t), and a standard normal."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from lipcompile.certifying.smoothing.noise import BLOCK, ImageNoise, Stream

SHAPE = (2, 3)
IMAGE = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 2, 2)


def draws(
    stop: int, start: int = 0, stream: Stream = Stream.COUNT, seed: int = 0
) -> np.ndarray:
    return ImageNoise(IMAGE, seed, SHAPE).draws(stream, start, stop)


def test_parts_are_those_of_the_whole_however_it_is_cut() -> None:
    whole, rng = draws(200), np.random.default_rng(0)
    for _ in range(20):
        cuts = [0, *sorted(rng.integers(0, 201, 5).tolist()), 200]
        pairs = list(itertools.pairwise(cuts))
        rng.shuffle(pairs)
        for start, stop in pairs:
            part = ImageNoise(IMAGE, 0, SHAPE).draws(Stream.COUNT, start, stop)
            assert part.shape == (stop - start, *SHAPE)
            assert part.dtype == np.float32
            np.testing.assert_array_equal(part, whole[start:stop])


def test_streams_seeds_images_and_blocks_are_distinct() -> None:
    other = np.nextafter(IMAGE, np.float32(2))
    found = [
        draws(4 * BLOCK),
        draws(4 * BLOCK, stream=Stream.SELECT),
        draws(4 * BLOCK, seed=1),
        ImageNoise(other, 0, SHAPE).draws(Stream.COUNT, 0, 4 * BLOCK),
        ImageNoise(IMAGE.reshape(1, 3, 4), 0, SHAPE).draws(Stream.COUNT, 0, 4 * BLOCK),
    ]
    blocks = np.concatenate(found).reshape(-1, BLOCK * 6)
    assert len(np.unique(blocks[:, 0])) == len(blocks)
    correlations = np.corrcoef(blocks)[np.triu_indices(len(blocks), 1)]
    assert np.abs(correlations).max() < 6 / np.sqrt(BLOCK * 6)


@pytest.mark.parametrize("block", [0, 1, 2**40])
def test_a_block_never_reaches_the_counters_of_another(block: int) -> None:
    """The upper two of the four words of the counter are the block's and the stream's."""
    bits = ImageNoise(IMAGE, 0, SHAPE)._bits(Stream.COUNT, block)
    np.random.Generator(bits).standard_normal(BLOCK * 1000, np.float32)
    position, carry, *name = bits.state["state"]["counter"].tolist()
    assert 0 < position < 2**32, "a draw of ImageNet size takes less, too"
    assert carry == 0
    assert name == [block, Stream.COUNT]


def test_values_are_standard_normal_and_independent() -> None:
    values = ImageNoise(IMAGE, 3, (50,)).draws(Stream.COUNT, 0, 4000)
    assert stats.kstest(values.ravel()[:50_000], "norm").pvalue > 1e-4
    assert stats.chi2.cdf((values**2).sum(), values.size) == pytest.approx(0.5, abs=0.4999)
    neighbours = np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(values.size)
    assert np.abs(values).max() < 8.21


def test_draws_are_what_they_were_when_results_were_kept() -> None:
    """A NumPy that draws otherwise makes other results: journals name its version."""
    expected = np.random.Generator(
        np.random.Philox(key=ImageNoise(IMAGE, 0, SHAPE)._key, counter=[0, 0, 1, 1])
    ).standard_normal((BLOCK, *SHAPE), np.float32)
    np.testing.assert_array_equal(draws(2 * BLOCK, BLOCK), expected)
