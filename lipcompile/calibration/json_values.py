"""Values in the JSON of a calibration table: exact types, and numbers that JSON lacks."""

from __future__ import annotations

import math
from typing import TypeVar

_T = TypeVar("_T")


def encoded(value: float) -> float | str:
    """JSON has no infinity (an attention mask may feed one); -0 and 0 are one value."""
    return value + 0.0 if math.isfinite(value) else repr(value)


def decoded(value: object) -> float:
    """What `encoded` gave; anything else is a TypeError."""
    if value in ("inf", "-inf", "nan") or type(value) in (int, float):
        return float(value)  # type: ignore[arg-type]
    raise TypeError(f"{str(value)[:40]!r} is not a number")


def of_type(kind: type[_T], value: object) -> _T:
    """`value`, which has exactly this type; anything else is a TypeError."""
    if type(value) is not kind:  # a bool is no number here
        raise TypeError(f"a {type(value).__name__} stands where a {kind.__name__} belongs")
    return value
