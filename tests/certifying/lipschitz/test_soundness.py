"""Nothing that is measured on a network exceeds its bounds, whatever its structure.

What is planted are the mistakes that are easily made here; each is caught by the very checks
that the bounds pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lipcompile.certifying.lipschitz import bounds, eclipse, rows, spectra, stepwise
from lipcompile.certifying.lipschitz.bounds import LipschitzBounds, network_bounds
from lipcompile.certifying.lipschitz.convolution import Convolution
from lipcompile.certifying.lipschitz.network import Network, Step
from lipcompile.certifying.lipschitz.norms import outwards
from tests.certifying.lipschitz.measuring import (
    bounds_of,
    build,
    network_of,
    sampled,
    steepest,
)
from tests.certifying.lipschitz.structures import STRUCTURES, Structure

structures = pytest.mark.parametrize("name", STRUCTURES)
signs = pytest.mark.parametrize("positive", [False, True], ids=["any sign", "positive"])
# The steepest slopes that are found are this close to a bound, so that a bound with a factor
# missing would be below them.
CLOSE = 0.8


@structures
@signs
def test_no_measured_slope_exceeds_the_bounds(name: str, positive: bool) -> None:
    structure = STRUCTURES[name]
    model = structure.model(positive=positive)
    found = bounds_of(model, structure.dims)
    assert not found.notes
    assert sampled(model, structure.dims).within(found)
    assert steepest(model, structure.dims).within(found)


@pytest.mark.slow
@structures
@pytest.mark.parametrize("seed", range(1, 25))
def test_no_measured_slope_exceeds_the_bounds_of_many(name: str, seed: int) -> None:
    structure = STRUCTURES[name]
    model = structure.model(seed, positive=seed % 4 == 0)
    found = bounds_of(model, structure.dims)
    assert sampled(model, structure.dims, seed=seed).within(found)
    assert steepest(model, structure.dims, rounds=30, starts=4, seed=seed).within(found)


@pytest.mark.parametrize("name", ["MLP", "a long signal"])
def test_measured_slopes_come_close(name: str) -> None:
    """Which is what gives the checks above their teeth."""
    structure = STRUCTURES[name]
    model = structure.model(positive=True)
    found = steepest(model, structure.dims, rounds=40)
    assert found.whole > CLOSE * max(bounds_of(model, structure.dims).by_method.values())


def _signal(body: str, length: int, *kernels: list[float]) -> tuple[Any, tuple[int, int, int]]:
    """Of one channel and dimension; kernels are K0, K1, ..."""
    arrays = {f"K{i}": np.array([[kernel]], float) for i, kernel in enumerate(kernels)}
    body = f"s = Reshape(x, FLAT) {body} c = Relu(b) y = Flatten(c)"
    dims = (1, 1, length)
    return build(body, dims, FLAT=np.array([0, 0, -1]), **arrays), dims


# On a circle they cancel; at the border of a signal of three they do not: 35 % more.
_CANCEL = [-2, 3, -3, 2, 0], [0, 0, -3, -3, -1]
_TWICE = "a = Conv<pads=[2,2]>(s, K0) {} b = Conv<pads=[2,2]>(r, K1)"


def _first(name: str, **changed: Any) -> tuple[Any, tuple[int, int, int]]:
    structure: Structure = replace(STRUCTURES[name], **changed)
    return structure.model(positive=True), structure.dims


def _no_border(monkeypatch: pytest.MonkeyPatch) -> None:
    """The composition of circular convolutions, as if nothing was thrown away between."""
    monkeypatch.setattr(spectra, "torus_middle", _without_masks(spectra.torus_middle, 1.0))
    gain = stepwise.torus_gain
    changed = lambda step: 0.0 if step.kind == "mask" else gain(step)  # noqa: E731
    monkeypatch.setattr(stepwise, "torus_gain", changed)


def _without_masks(of: Callable[[Step], float], value: float) -> Callable[[Step], float]:
    return lambda step: value if step.kind == "mask" else of(step)


def _no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Fourier transform of n points, as if convolutions did not pad."""
    monkeypatch.setattr(Convolution, "least_torus", lambda self: self.size)


def _no_hull(monkeypatch: pytest.MonkeyPatch) -> None:
    """The activation's own slopes on the torus, as if it gave no zeros beside the image."""
    monkeypatch.setattr(spectra, "torus_middle", lambda step: (step.low + step.high) / 2)
    monkeypatch.setattr(stepwise, "torus_gain", lambda step: (step.high - step.low) / 2)


def _no_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The remainder's slope without the middle that it is a remainder of."""
    monkeypatch.setattr(rows, "middle", lambda step: 0.0)
    monkeypatch.setattr(spectra, "torus_middle", lambda step: 0.0)


def _half_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepwise, "gain", lambda step, through: (step.high - step.low) / 4)


def _large_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """ECLipsE-Fast without what the coupling of two layers takes away."""

    def tail_gram(tail: eclipse.Tail) -> np.ndarray:
        form = None
        for matrix in tail.matrices[:-1]:
            spread = eclipse._spread(matrix, form)
            form = 2 / np.linalg.norm(spread, 2) * np.eye(len(spread))
        return eclipse._spread(tail.matrices[-1], form)

    monkeypatch.setattr(bounds, "tail_gram", tail_gram)


def _branches(kind: str, how: Callable[[list[float]], float]) -> Callable[..., None]:
    """Branches put together wrongly."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        combined = stepwise._combined
        changed = lambda step, norm, before: (  # noqa: E731
            how(before) if step.kind == kind else combined(step, norm, before)
        )
        monkeypatch.setattr(stepwise, "_combined", changed)

    return plant


def _largest_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest norm of a part of the matrix, as of one group or one kernel element."""
    norm = Convolution.torus_norm
    changed = lambda self, torus: norm(self, torus) / len(self.weight) ** 0.5  # noqa: E731
    monkeypatch.setattr(Convolution, "torus_norm", changed)


PLANTED: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Any]] = {
    "zeros beside the image are forgotten": (
        _no_border,
        _signal(_TWICE.format("r = Identity(a)"), 3, *_CANCEL),
    ),
    "no room for the padding": (
        _no_room,
        _signal("b = Conv<pads=[1,1]>(s, K0)", 2, [1, 0, -1]),
    ),
    "slopes without the hull of 0": (
        _no_hull,
        _signal(_TWICE.format("r = LeakyRelu<alpha=0.99>(a)"), 3, *_CANCEL),
    ),
    "a gain without its middle": (_no_middle, _first("MLP")),
    "half the gain": (_half_gain, _first("MLP")),
    "a quadratic form that is too large": (_large_form, _first("MLP")),
    "the largest branch of a sum": (
        _branches("sum", lambda before: outwards(max(before))),
        _first("tensors that many read"),
    ),
    "the largest part of a concatenation": (
        _branches("concat", lambda before: outwards(max(before))),
        (
            build(
                "a = Concat<axis=1>(x, x, x) b = Flatten(a) y = Relu(b)",
                (1, 3, 3),
            ),
            (1, 3, 3),
        ),
    ),
    "a part of a convolution": (_largest_part, _first("a long signal")),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_mistake_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, (model, dims) = PLANTED[name]
    network = network_of(model, dims)
    measured = steepest(model, dims, rounds=40)
    assert measured.within(network_bounds(network))
    plant(monkeypatch)
    wrong = network_bounds(network)
    assert measured.contradicts(wrong.by_method), (measured.whole, wrong.by_method)
    assert not measured.within(wrong)


def _network(name: str) -> tuple[Network, LipschitzBounds]:
    structure = STRUCTURES[name]
    network = network_of(structure.model(), structure.dims)
    return network, network_bounds(network)


@structures
def test_bounds_agree_with_each_other(name: str) -> None:
    _, found = _network(name)
    assert found.whole == min(found.by_method.values())
    assert found.product == found.by_method["product"]
    assert (found.per_logit <= found.whole).all()
    assert (found.pairwise == found.pairwise.T).all()
    assert not found.pairwise.diagonal().any()
    assert (found.pairwise <= found.per_logit[:, None] + found.per_logit).all()
    assert (found.pairwise <= 2**0.5 * found.whole * (1 + 1e-8)).all()
    assert found.whole <= np.linalg.norm(found.per_logit) * (1 + 1e-8)


def test_axes_that_are_exchanged_are_not_composed_as_if_they_were_not() -> None:
    """A sum along one axis and second differences along the other: along one and the same
    they would nearly cancel."""
    model = build(
        "a = Conv<pads=[0,1,0,1]>(x, A) t = Transpose<perm=[0,1,3,2]>(a) "
        "b = Conv<pads=[0,1,0,1]>(t, B) r = Relu(b) y = Flatten(r)",
        (1, 8, 8),
        A=np.array([[[[1.0, 1, 1]]]]),
        B=np.array([[[[1.0, -2, 1]]]]),
    )
    measured = steepest(model, (1, 8, 8), rounds=60)
    assert measured.whole > 11
    assert measured.within(bounds_of(model, (1, 8, 8)))
