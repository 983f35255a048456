"""Norms of convolutions: never below the dense matrix's, close to it, and not by accident."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lipcompile.certifying.lipschitz.convolution import Convolution

# Of 2e-12: LAPACK's own error in the dense reference.
ROUNDING = 1e-11
TIGHT = 1.06  # where the image is five times as long as the kernel


def convolution(
    weight: np.ndarray,
    size: Sequence[int],
    strides: Sequence[int],
    before: Sequence[int],
    behind: Sequence[int],
    dilations: Sequence[int],
    groups: int,
) -> Convolution | None:
    axes = zip(size, before, behind, weight.shape[2:], dilations, strides, strict=True)
    out = [(n + p + q - (k - 1) * d - 1) // s + 1 for n, p, q, k, d, s in axes]
    if min(out) < 1:
        return None
    channels = weight.shape[1] * groups
    return Convolution(
        (1, channels, *size),
        (1, len(weight), *out),
        weight,
        tuple(strides),
        tuple(before),
        tuple(dilations),
        groups,
    )


def dense(kernel: Convolution, behind: Sequence[int]) -> np.ndarray:
    """The unrolled operator by torch: [out, in]."""
    size = int(np.prod(kernel.in_shape))
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *kernel.in_shape[1:])
    pairs = zip(kernel.pads, behind, strict=True)
    pads = [width for pair in list(pairs)[::-1] for width in pair]
    convolve = F.conv1d if len(kernel.size) == 1 else F.conv2d
    made = convolve(
        F.pad(basis, pads),
        torch.from_numpy(kernel.weight),
        stride=kernel.strides,
        dilation=kernel.dilations,
        groups=kernel.groups,
    )
    assert tuple(made.shape[1:]) == kernel.out_shape[1:]
    matrix: np.ndarray = made.reshape(size, -1).numpy().T
    return matrix


def drawn(count: int, seed: int = 0) -> Iterator[tuple[Convolution, np.ndarray]]:
    """Convolutions of any kind, and their matrices."""
    rng = np.random.default_rng(seed)
    while count:
        axes, groups = int(rng.integers(1, 3)), int(rng.choice([1, 1, 2, 3]))

        def numbers(low: int, high: int, axes: int = axes) -> list[int]:
            return [int(n) for n in rng.integers(low, high, axes)]

        inner, out = int(rng.integers(1, 3)), groups * int(rng.integers(1, 4))
        weight = rng.standard_normal((out, inner, *numbers(1, 5 if axes == 1 else 4)))
        behind = numbers(-1, 3)
        kernel = convolution(
            np.abs(weight) if rng.random() < 0.5 else weight,
            numbers(3, 12 if axes == 1 else 7),
            numbers(1, 4),
            numbers(-1, 3),
            behind,
            numbers(1, 3),
            groups,
        )
        if kernel is not None:
            count -= 1
            yield kernel, dense(kernel, behind)


@pytest.fixture(scope="module")
def examples() -> list[tuple[Convolution, float]]:
    return [(kernel, float(np.linalg.norm(a, 2))) for kernel, a in drawn(300)]


def below(
    examples: list[tuple[Convolution, float]], norm: Callable[[Convolution], float]
) -> int:
    """How many norms are smaller than that of the matrix."""
    return sum(norm(kernel) < exact * (1 - ROUNDING) for kernel, exact in examples)


def test_norm_is_never_below_the_matrix(examples: list[tuple[Convolution, float]]) -> None:
    assert below(examples, Convolution.norm) == 0


def power_iteration(kernel: Convolution) -> float:
    vector = np.random.default_rng(0).standard_normal((1, *kernel.in_shape))
    matrix = kernel.pull(np.eye(int(np.prod(kernel.out_shape))).reshape(-1, *kernel.out_shape))
    flat, vector = matrix.reshape(len(matrix), -1), vector.reshape(-1)
    for _ in range(5):
        vector = flat.T @ (flat @ vector)
        vector /= np.linalg.norm(vector) or 1.0
    return float(np.linalg.norm(flat @ vector))


def on_grid(size: Callable[[Convolution], Sequence[int]]) -> Callable[[Convolution], float]:
    """The largest norm among the frequencies of a grid of that size, where there is no stride
    and only one group; else the sound norm."""

    def norm(kernel: Convolution) -> float:
        if set(kernel.strides) != {1} or kernel.groups > 1:
            return kernel.norm()
        grid = tuple(size(kernel))
        places = np.array(list(np.ndindex(*grid)))
        return float(np.linalg.norm(kernel.symbol(places, grid)[:, 0], 2, axis=(1, 2)).max())

    return norm


def reshaped(kernel: Convolution) -> float:
    return float(np.linalg.norm(kernel.weight.reshape(len(kernel.weight), -1), 2))


def over_the_groups(kernel: Convolution) -> float:
    """The norm of all groups over the square root of their number."""
    return kernel.norm() / kernel.groups**0.5


def without_stride(kernel: Convolution) -> float:
    """Thinned out as if outputs were independent of each other."""
    return kernel.norm() / np.prod(kernel.strides) ** 0.5


UNSOUND: dict[str, Callable[[Convolution], float]] = {
    "five steps of power iteration": power_iteration,
    "a grid as large as the kernel": on_grid(lambda kernel: kernel.kernel),
    "a grid as large as the image": on_grid(lambda kernel: kernel.size),
    "the kernel as a matrix": reshaped,
    "the mean group": over_the_groups,
    "a factor for the stride": without_stride,
}


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_norm_is_caught(name: str, examples: list[tuple[Convolution, float]]) -> None:
    assert below(examples, UNSOUND[name])


def test_rows_are_pulled_back_exactly() -> None:
    for kernel, matrix in drawn(60, seed=1):
        rows = np.eye(len(matrix)).reshape(-1, *kernel.out_shape)
        pulled = kernel.pull(rows).reshape(len(matrix), -1)
        np.testing.assert_allclose(pulled, matrix, atol=1e-13)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_norm_is_close_at_sizes_of_real_layers(k: int, stride: int) -> None:
    rng = np.random.default_rng(k)
    size = (max(16, 5 * k),) * 2
    for weight in (rng.standard_normal((1, 2, k, k)), rng.uniform(0.5, 1, (2, 1, k, k))):
        pads = (k // 2, k // 2)
        kernel = convolution(weight, size, (stride,) * 2, pads, pads, (1, 1), 1)
        assert kernel is not None
        exact = float(np.linalg.norm(dense(kernel, pads), 2))
        assert exact * (1 - ROUNDING) <= kernel.norm() <= TIGHT * exact


def test_torus_is_no_larger_than_it_has_to_be() -> None:
    kernel = convolution(np.ones((1, 1, 3)), (8,), (1,), (1,), (1,), (1,), 1)
    assert kernel is not None
    assert kernel.least_torus() == (9,)
    assert kernel.norm() == pytest.approx(3, rel=1e-8)
    cropped = convolution(np.ones((1, 1, 3)), (8,), (1,), (0,), (0,), (1,), 1)
    assert cropped is not None
    assert not cropped.reads_outside
    assert cropped.least_torus() == (8,)
