"""How c_r may be written, and what is said when it is written otherwise."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lipcompile.errors import OptionError
from lipcompile.thresholds import parse_cr

READ = {
    "2^-7": 2**-7,
    "2**-7": 2**-7,
    "1/128": 2**-7,
    "0.0078125": 2**-7,
    ".0078125": 2**-7,
    "7.8125e-3": 2**-7,
    "1e-2": 0.01,
    "1E-2": 0.01,
    " 2^-7 ": 2**-7,
    "\t1/128\n": 2**-7,
    "2 ^ -7": 2**-7,
    "2 ** -7": 2**-7,
    "1 / 128": 2**-7,
    "1.5/128": 1.5 / 128,
    "2^-7.5": 2**-7.5,
    "0.5^7": 2**-7,
    "2^-1074": 2**-1074,
    "0.9999": 0.9999,
}


@pytest.mark.parametrize(("text", "value"), READ.items(), ids=READ)
def test_written_number_is_read(text: str, value: float):
    assert parse_cr(text) == value


@pytest.mark.parametrize("value", [2**-7, 0.01, 1 - 2**-53])
def test_number_is_taken_as_it_is(value: float):
    assert parse_cr(value) == value


OUT_OF_RANGE = [
    "0",
    "-0.0",
    "-1",
    "1",
    "2",
    "1.0",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "2^0",
    "2^7",
]
OUT_OF_RANGE += ["128/1", "2^-2000", "0^7", "1/1"]


@pytest.mark.parametrize("text", OUT_OF_RANGE)
def test_number_out_of_range_is_refused(text: str):
    message = (
        rf"^c_r = {re.escape(text)} is out of range: the threshold is c_r times the largest "
        r"activation, so 0 < c_r < 1; the paper uses 2\^-8, 2\^-7 and 2\^-6$"
    )
    with pytest.raises(OptionError, match=message):
        parse_cr(text)


@pytest.mark.parametrize("value", [0, 1, -0.5, 2, float("nan"), float("inf"), True])
def test_value_out_of_range_is_refused(value: float):
    with pytest.raises(OptionError, match="is out of range"):
        parse_cr(value)


NO_NUMBER = ["", " ", "abc", "1/0", "0/0", "2^", "^-7", "2^-", "1/", "2^^7", "1/2/3", "2^-7x"]
NO_NUMBER += ["0^-1", "2^99999", "1 28", "0.0 1", "1,5", "0x1p-7", "-2**-7"]
NO_NUMBER += ["2-123"]


@pytest.mark.parametrize("text", NO_NUMBER)
def test_text_that_is_no_number_is_refused(text: str):
    message = (
        rf"^c_r = '{re.escape(text)}' is no number: write it like 2\^-7, 2\*\*-7, 1/128 or "
        r"0\.0078125$"
    )
    with pytest.raises(OptionError, match=message):
        parse_cr(text)


def test_caret_that_a_shell_dropped_is_explained():
    message = (
        r"^c_r = '2-7' is no number: some shells drop the \^ of 2\^-7; quote it \('2\^-7'\) "
        r"or write 2\*\*-7 or 1/128$"
    )
    with pytest.raises(OptionError, match=message):
        parse_cr("2-7")


def test_advice_is_the_number_that_was_meant():
    with pytest.raises(OptionError, match=f"or 1/{2**70}$"):
        parse_cr("2-70")


@given(st.text() | st.from_regex(r"[0-9.eE+^*/ -]{0,12}", fullmatch=True))
@example("2-" + "1" * 5000)
@example("2-0")
@example("1" * 5000)
@example("1" * 5000 + "^" + "1" * 5000)
@example("1/" + "0" * 400 + "1")
@example("2^1e400")
@example("\u0660.\u0665")
@example("1_0")
@example("\x00")
@example("\ud800")
def test_any_text_is_read_or_refused(text: str):
    try:
        assert 0 < parse_cr(text) < 1
    except OptionError as error:
        assert "c_r" in str(error)


def test_long_text_is_refused_in_time():
    """Digits may stand before or after the point: a quadratic search would take minutes."""
    with pytest.raises(OptionError):
        parse_cr("1" * 200_000 + "x")
