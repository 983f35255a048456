"""Tables line up, and numbers are not rounded into something that they are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipcompile.text import count, number, percent, power_of_two, table


def test_columns_are_as_wide_as_their_widest_cell_and_the_last_is_not_padded():
    assert table(["a", "name", "why"], [["long", "x", "stem"], ["b", "conv1", ""]]) == [
        "a     name   why",
        "long  x      stem",
        "b     conv1  ",
    ]


def test_table_without_rows_is_its_header():
    assert table(["a", "b"], []) == ["a  b"]
    assert table(["a"], [["x"], ["yy"]]) == ["a", "x", "yy"]


@given(st.lists(st.lists(st.text("abc ", max_size=6), min_size=3, max_size=3), max_size=5))
def test_every_cell_stands_at_the_place_of_its_header(rows: list[list[str]]):
    lines = table(["first", "second", "third"], rows)
    assert len(lines) == len(rows) + 1
    second, third = lines[0].index("second"), lines[0].index("third")
    for line, row in zip(lines[1:], rows, strict=True):
        assert line[:second].rstrip() == row[0].rstrip()
        assert line[second:third].rstrip() == row[1].rstrip()
        assert line[third:] == row[2]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1.0, "1"), (0.123456, "0.1235"), (12345.6, "1.235e+04")]
)
def test_number_has_four_digits(value: float, text: str):
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0.00 %"),
        (0.5, "50.00 %"),
        (0.99994, "99.99 %"),
        (0.999999, "99.99 %"),
        (1 - 2**-53, "99.99 %"),
        (1.0, "100.00 %"),
    ],
)
def test_percentage_is_100_only_when_it_is(share: float, text: str):
    assert percent(share) == text


@given(st.floats(0, 1, exclude_max=True))
def test_no_smaller_share_reads_as_all(share: float):
    assert percent(share) != percent(1.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2**-7, "2^-7 = 0.0078125"),
        (0.5, "2^-1 = 0.5"),
        (1.0, "2^0 = 1"),
        (0.01, "0.01"),
        (0.0, "0"),
        (-0.5, "-0.5"),
    ],
)
def test_power_of_two_is_recognised(value: float, text: str):
    assert power_of_two(value) == text


@pytest.mark.parametrize(
    ("items", "text"), [([], "0 layers"), ([1], "1 layer"), ([1, 2], "2 layers")]
)
def test_count_agrees_with_its_noun(items: list[int], text: str):
    assert count(items, "layer") == text
