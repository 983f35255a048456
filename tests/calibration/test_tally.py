"""Tallies, coverages and sketches add up: any order and division gives the same."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipcompile.calibration import sketch
from lipcompile.calibration.coverage import Coverage, interval
from lipcompile.calibration.journal import ScanState
from lipcompile.calibration.sketch import join, sketch_of
from lipcompile.calibration.tally import Tally

NAMES = st.sampled_from(["a", "b", "c"])
FLOATS = st.floats(0, 2.0**99, width=32)
HASHES = st.sets(st.integers(0, 2**64 - 1), max_size=400).map(lambda found: join(found))


PAIRS = st.tuples(FLOATS, FLOATS).map(lambda pair: (min(pair), max(pair)))
ROWS = st.lists(st.integers(0, 2**40), min_size=2, max_size=2).map(np.array)


@st.composite
def tallies(draw: st.DrawFn) -> Tally:
    return Tally(
        absmax=draw(st.dictionaries(NAMES, FLOATS)),
        sums=draw(st.dictionaries(NAMES, ROWS)),
        samples=draw(st.integers(0, 10**9)),
        digest=f"{draw(st.integers(0, 2**256 - 1)):064x}",
        sketch=draw(HASHES),
        input_range=draw(st.dictionaries(NAMES, PAIRS)),
        unreadable=tuple(draw(st.lists(st.text(), max_size=3))),
        nonfinite=tuple(draw(st.lists(st.text(), max_size=3))),
    )


def plain(tally: Tally) -> object:
    """The content, whatever the order of keys and names."""
    content = tally.to_json()
    return content | {name: sorted(content[name]) for name in ("unreadable", "nonfinite")}


@given(tallies(), tallies(), tallies())
def test_a_tally_is_a_commutative_monoid(a: Tally, b: Tally, c: Tally) -> None:
    assert plain(a + b) == plain(b + a)
    assert plain((a + b) + c) == plain(a + (b + c))
    assert plain(a + Tally()) == plain(a)


@given(tallies())
def test_json_gives_the_tally_back(tally: Tally) -> None:
    state = ScanState(tally, Coverage(((0, 3), (5, 9))), 2**64 - 1)
    text = json.dumps(state.to_json(), allow_nan=False)
    back = ScanState.from_json(json.loads(text))
    assert plain(back.tally) == plain(tally)
    assert (back.covered, back.stamps) == (state.covered, state.stamps)


SETS = st.sets(st.integers(0, 30))


def covering(positions: set[int]) -> Coverage:
    found = Coverage()
    for position in positions:
        found |= interval(position, position + 1)
    return found


@given(SETS, SETS)
def test_coverage_is_a_set_of_positions(a: set[int], b: set[int]) -> None:
    both = covering(a) | covering(b)
    assert list(both) == sorted(a | b)
    assert len(both) == len(a | b)
    gaps = {i for start, stop in both.gaps(40) for i in range(start, stop or 0)}
    assert gaps == set(range(40)) - a - b
    assert both.gaps(None)[-1] == (max(a | b, default=-1) + 1, None)


@pytest.mark.parametrize("wrong", [((3, 3),), ((0, 2), (2, 4)), ((5, 6), (0, 1)), ((-1, 2),)])
def test_a_coverage_that_is_none(wrong: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match="no sorted intervals"):
        Coverage(wrong)


def digests(numbers: range) -> list[bytes]:
    return [hashlib.sha256(str(i).encode()).digest() for i in numbers]


def test_sketches_find_overlaps_as_often_as_promised() -> None:
    """n = 20,000 samples in the union, m of them common."""
    for common, expected in ((20, 0.23), (200, 0.92), (1000, 1.0)):
        found = 0
        for seed in range(60):
            base = seed * 100_000
            half = (20_000 - common) // 2
            left = sketch_of(digests(range(base, base + half + common)))
            right = sketch_of(digests(range(base + half, base + 20_000)))
            found += bool(set(left) & set(right))
        assert found / 60 >= expected - 0.17, "three deviations"


def test_the_sketch_of_few_samples_holds_all() -> None:
    found = sketch_of(digests(range(sketch.SIZE)))
    assert len(found) == sketch.SIZE
    assert len(sketch_of(digests(range(5000)))) == sketch.SIZE


@pytest.mark.parametrize("text", ["0", "0" * 17, "f" * 16 + "0" * 16, "0" * 32, "g" * 16])
def test_a_text_that_is_no_sketch(text: str) -> None:
    with pytest.raises(ValueError):
        sketch.from_text(text)
