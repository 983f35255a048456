"""Reads c_r the way people write it: 2^-7, 2**-7, 1/128, 0.0078125; and checks zero rates."""

from __future__ import annotations

import math
import re

from lipcompile.errors import OptionError

_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_POWER = re.compile(rf"({_NUMBER})\s*(?:\^|\*\*)\s*([-+]?{_NUMBER})")
_RATIO = re.compile(rf"({_NUMBER})\s*/\s*({_NUMBER})")
_LOST_CARET = re.compile(r"2-([1-9][0-9]?)")


def parse_cr(text: str | float) -> float:
    """Returns the relative threshold c_r, with 0 < c_r < 1.

    Raises:
        OptionError: It is no number, or out of range.
    """
    try:
        value = _parse(text.strip()) if isinstance(text, str) else float(text)
    except (TypeError, ValueError):
        value = None
    except OverflowError:  # an integer of hundreds of digits
        value = math.inf
    if value is None:
        raise OptionError(_explain(str(text)))
    if not (math.isfinite(value) and 0 < value < 1):
        raise OptionError(
            f"c_r = {text} is out of range: the threshold is c_r times the largest "
            "activation, so 0 < c_r < 1; the paper uses 2^-8, 2^-7 and 2^-6"
        )
    return value


def check_zero_rate(rate: float) -> float:
    """Returns the share of suppressed elements from which on a column is zeroed, in (0, 1].

    Raises:
        OptionError: It is no number, or out of range.
    """
    try:
        value = float(rate)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"zero rate = '{rate}' is no number: write it like 1.0 or 0.99"
        ) from error
    if not 0 < value <= 1:
        raise OptionError(
            f"zero rate = {rate} is out of range: a column is zeroed where at least this "
            "share of its elements is suppressed, so 0 < zero rate <= 1; 1 means every one"
        )
    return value


def _parse(text: str) -> float | None:
    try:
        if match := _POWER.fullmatch(text):
            return float(math.pow(float(match[1]), float(match[2])))
        if match := _RATIO.fullmatch(text):
            return float(match[1]) / float(match[2])
        return float(text)
    except (ValueError, OverflowError, ZeroDivisionError):
        return None


def _explain(text: str) -> str:
    if match := _LOST_CARET.fullmatch(text):
        return (
            f"c_r = '{text}' is no number: some shells drop the ^ of 2^-{match[1]}; quote it "
            f"('2^-{match[1]}') or write 2**-{match[1]} or 1/{2 ** int(match[1])}"
        )
    return f"c_r = '{text}' is no number: write it like 2^-7, 2**-7, 1/128 or 0.0078125"
