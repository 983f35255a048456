"""A budget holds exactly, whatever an attack hands in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipcompile.auditing.budget import Budget, Norm, parse_eps
from lipcompile.errors import OptionError

RADII = st.floats(1e-7, 0.99)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@given(eps=RADII, reach=st.floats(0.0, 10.0), seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_projection_never_leaves_the_budget(
    norm: Norm, eps: float, reach: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.random((3, 1, 5, 5), np.float32)
    pixels[0] = np.round(pixels[0])  # on the edge of the range
    candidates = pixels + reach * rng.standard_normal(pixels.shape).astype(np.float32)
    budget = Budget(eps, norm)
    inside = budget.project(pixels, candidates)
    assert inside.dtype == np.float32
    assert (budget.size(pixels, inside) <= eps).all()
    assert inside.min() >= 0 and inside.max() <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_leaves_alone_what_is_inside(norm: Norm) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0.2, 0.8, (4, 3, 8, 8)).astype(np.float32)
    candidates = pixels + np.float32(0.001) * rng.choice([-1, 1], pixels.shape)
    candidates = candidates.astype(np.float32)
    assert np.array_equal(Budget(0.1, norm).project(pixels, candidates), candidates)


def test_projection_uses_the_budget_up() -> None:
    pixels = np.full((1, 1, 4, 4), 0.5, np.float32)
    far = np.ones_like(pixels)
    assert Budget(8 / 255).project(pixels, far) == pytest.approx(0.5 + 8 / 255, abs=1e-7)
    size = Budget(0.3, "l2").size(pixels, Budget(0.3, "l2").project(pixels, far))
    assert size == pytest.approx(0.3, abs=1e-6)


def test_image_with_nan_becomes_its_clean_image() -> None:
    pixels = np.full((2, 1, 2, 2), 0.5, np.float32)
    candidates = pixels + np.float32(0.1)
    candidates[1, 0, 0, 0] = np.nan
    inside = Budget(0.2).project(pixels, candidates)
    assert np.array_equal(inside[1], pixels[1])
    assert np.array_equal(inside[0], candidates[0])


def test_printed_in_255ths_where_it_is_one() -> None:
    assert str(Budget(8 / 255)) == "linf eps = 8/255"
    assert str(Budget(0.1)) == "linf eps = 0.1"
    assert str(Budget(0.5, "l2")) == "l2 eps = 0.5"


@pytest.mark.parametrize(
    ("eps", "norm", "match"),
    [
        (8, "linf", r"eps = 8 allows any image at all.*did you mean 8/255\?"),
        (1.0, "linf", "allows any image"),
        (0.0, "linf", "must be above 0"),
        (-0.1, "l2", "must be above 0"),
        (float("nan"), "linf", "must be above 0"),
        (0.1, "l1", "norm 'l1' is unknown: use linf or l2"),
    ],
)
def test_illegal_budget(eps: float, norm: Norm, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        Budget(eps, norm)


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.031", 0.031), (0.25, 0.25), ("1e-2", 0.01)]
)
def test_eps_is_read(text: str | float, value: float) -> None:
    assert parse_eps(text) == value


@pytest.mark.parametrize("text", ["8/0", "eight", "", "8/255/1"])
def test_eps_that_is_no_number(text: str) -> None:
    with pytest.raises(OptionError, match=r"is no number: write it like 8/255 or 0\.031"):
        parse_eps(text)
