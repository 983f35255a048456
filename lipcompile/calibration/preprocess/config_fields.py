"""The fields of a preprocessing config, read with the type that is expected."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from lipcompile.calibration.preprocess.pixels import Pair
from lipcompile.errors import DataError

Fields = Mapping[str, Any]

BY_HAND: Final = (
    "leave --preprocess out and give --input-size, --mean and --std, or give .npz data"
)
_MOST_PIXELS = 1 << 31
LEAST_SHARE: Final = 1e-9  # of an image: below it a size over it could be infinite


def wrong_field(key: str, expected: str, got: object) -> DataError:
    """The error for a field that holds something else than expected."""
    return DataError(
        f"preprocessing config has '{key}': {got!r:.200}, expected {expected}: correct the"
        " file"
    )


def is_length(value: object) -> TypeGuard[int]:
    """Whether `value` is an int above 0 that an image can have."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST_PIXELS


def _is_number(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def read_flag(config: Fields, key: str, default: bool) -> bool:
    """True or false; like all readers here, `default` where the field is missing or null."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise wrong_field(key, "true or false", value)
    return value


def read_number(config: Fields, key: str, default: float) -> float:
    """A finite number."""
    value = config.get(key)
    if value is None:
        return default
    if not _is_number(value):
        raise wrong_field(key, "a number", value)
    return float(value)


def read_fraction(config: Fields, key: str, default: float | None) -> float | None:
    """A number in (0, 1]."""
    value = config.get(key)
    if value is None:
        return default
    if not (_is_number(value) and LEAST_SHARE <= value <= 1):
        raise wrong_field(key, "a number above 0, at most 1", value)
    return float(value)


def read_numbers(
    config: Fields, key: str, default: tuple[float, ...] | None = None
) -> tuple[float, ...]:
    """One finite number or a list of them; required where `default` is None."""
    value = config.get(key)
    if value is None and default is not None:
        return default
    row = value if isinstance(value, list | tuple) else [value]
    if not row or not all(map(_is_number, row)):
        raise wrong_field(key, "a number, or a list with one per channel", value)
    return tuple(map(float, row))


def read_size(config: Fields, key: str, *, short: bool) -> int | Pair:
    """An int for a short side, a pair for (height, width).

    Args:
        config: The config.
        key: Name of the field, which is required.
        short: Whether a bare int in the field is a short side; else it is both sides.
    """
    value = config.get(key)
    if is_length(value):
        return value if short else (value, value)
    if isinstance(value, Mapping):
        named = {k: v for k, v in value.items() if v is not None}
        if named.keys() == {"shortest_edge"} and is_length(named["shortest_edge"]):
            return named["shortest_edge"]
        if named.keys() == {"height", "width"} and all(map(is_length, named.values())):
            return named["height"], named["width"]
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(is_length, value)):
        return value[0], value[1]
    raise wrong_field(key, 'an int, {"height", "width"} or {"shortest_edge"}', value)
