"""Values of a TOML file as values of flags, and back."""

from __future__ import annotations

import json
import re
from typing import Any

import click

# Flags whose text is a comma-separated list have one of these in their metavar.
_LISTS = re.compile(r"LIST|OPS|,")


def converted(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """The value as it stands on a command line, checked as there.

    Raises:
        ValueError: It is none for this parameter; the text tells the value and why.
    """
    try:
        natural = _natural(param, value)
        return param.type_cast_value(ctx, natural)
    except click.BadParameter as error:
        raise ValueError(f"{_shown(value)}: {error.message.rstrip('.')}") from error
    except OverflowError as error:
        raise ValueError(f"{_shown(value)} is too large") from error


def _natural(param: click.Parameter, value: Any) -> Any:
    if isinstance(param, click.Option) and param.is_flag:
        return _of_type(value, bool, "true or false")
    if param.nargs != 1 or getattr(param, "multiple", False):
        items = value if isinstance(value, list) else [value]
        return tuple(_of_type(item, str, "a string, or an array of strings") for item in items)
    if isinstance(param.type, type(click.INT)):
        return _of_type(value, int, "a whole number")
    if isinstance(param.type, type(click.FLOAT)):
        return float(_of_type(value, (int, float), "a number"))
    if isinstance(value, list) and _LISTS.search(param.metavar or ""):
        return ",".join(_scalar(item, "an array of strings or numbers") for item in value)
    return _scalar(
        value, "a string" if param.type.name == "choice" else "a string or a number"
    )


def _of_type(value: Any, kind: type | tuple[type, ...], what: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{_shown(value)} is not {what}")
    return value


def _scalar(value: Any, what: str) -> str:
    return str(_of_type(value, (str, int, float), what))


def _shown(value: Any) -> str:
    """As in the file, or nearly so."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):  # dates and times
        return str(value)


def written(value: Any) -> Any:
    """A parameter's value for a file."""
    return list(value) if isinstance(value, tuple) else value
