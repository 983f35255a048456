"""Plain text for people: aligned tables and readable numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized

from lipcompile.unprintable import one_line


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Left-aligned columns as wide as their widest cell; the last one is not padded.

    A line break in a cell is a space.
    """
    cells = [header, *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header) - 1)]
    return [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]])
        for row in cells
    ]


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def percent(share: float) -> str:
    """A share as a percentage; 100 % only when it is exactly that."""
    text = f"{100 * share:.2f}"
    return f"{'99.99' if text == '100.00' and share < 1 else text} %"


def power_of_two(value: float) -> str:
    """ "2^-7 = 0.0078125" for powers of two, else the number."""
    mantissa, exponent = math.frexp(value)
    return f"2^{exponent - 1} = {value:g}" if mantissa == 0.5 else f"{value:g}"


def parse_ratio(text: str) -> float:
    """ "0.031", or a ratio like "8/255".

    Raises:
        ValueError: It is neither, or divides by zero.
    """
    numerator, _, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator or 1)
    except ZeroDivisionError as error:
        raise ValueError(f"'{text}' divides by zero") from error


def count(items: Sized, noun: str) -> str:
    """ "1 layer", "3 layers"."""
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"
