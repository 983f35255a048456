"""Whether a document has what a report reads: the part of JSON Schema that our schema uses."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from lipcompile.documents import Document
from lipcompile.errors import DataError
from lipcompile.version import __version__

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
_MOST_BITS = 64  # a float cannot hold any whole number
_Schema = dict[str, Any]


@cache
def schema() -> _Schema:
    """report.schema.json, the shape of what `Report.to_json` gives."""
    text = (files("lipcompile.report") / "report.schema.json").read_text(encoding="utf-8")
    found: _Schema = json.loads(text)
    return found


def check_shape(document: Document) -> None:
    """Raises DataError where a key that reports read is missing or has another type."""
    for problem in problems(document.content, schema()["$defs"][document.kind], ""):
        raise DataError(
            f"'{document.name}' is no complete result of {document.kind}: {problem}; it was "
            "cut, edited, or written by another version: run the command again with "
            f"{__version__}"
        )


def problems(value: object, expected: _Schema, at: str) -> Iterator[str]:
    """What does not fit, in words, with its place.

    Args:
        value: A JSON value.
        expected: type, const, enum, minimum, maximum, required, properties,
            additionalProperties, items, minItems, maxItems, anyOf and $ref are read.
        at: Place of the value: "budget.eps".
    """
    if "$ref" in expected:
        expected = schema()["$defs"][expected["$ref"].rpartition("/")[2]]
    place = f"'{at}'" if at else "the document"
    if "anyOf" in expected:
        options = [list(problems(value, one, at)) for one in expected["anyOf"]]
        if all(options):
            # The first option of ours is null, and the last one what is meant.
            yield options[-1][0] if value is not None else f"{place} is null"
        return
    if not _has_type(value, expected):
        found = "null" if value is None else type(value).__name__
        yield f"{place} is of type {found}, expected {_words(expected['type'])}"
    elif "const" in expected and value != expected["const"]:
        yield f"{place} is not '{expected['const']}'"
    elif "enum" in expected and value not in expected["enum"]:
        yield f"{place} is none of {', '.join(map(str, expected['enum']))}"
    elif isinstance(value, int | float):
        yield from _range(value, expected, place)
    elif isinstance(value, dict):
        yield from _object(value, expected, at)
    elif isinstance(value, list):
        yield from _array(value, expected, at)


def _words(types: str | list[str]) -> str:
    return types if isinstance(types, str) else " or ".join(types)


def _has_type(value: object, expected: _Schema) -> bool:
    if "type" not in expected:
        return True
    named = expected["type"]
    allowed = [named] if isinstance(named, str) else named
    if isinstance(value, bool):  # an int in Python, and no number in JSON
        return "boolean" in allowed
    return any(isinstance(value, _TYPES[name]) for name in allowed)


def _range(value: float, expected: _Schema, place: str) -> Iterator[str]:
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        yield f"{place} is a whole number of {value.bit_length()} bits, which no result has"
        return
    low, high = expected.get("minimum", -math.inf), expected.get("maximum", math.inf)
    bounded = "minimum" in expected or "maximum" in expected
    if bounded and not (low <= value <= high and math.isfinite(value)):  # NaN as well
        yield f"{place} is {value}, which is not in [{low}, {high}]"


def _object(value: dict[str, Any], expected: _Schema, at: str) -> Iterator[str]:
    named = expected.get("properties", {})
    for key in expected.get("required", ()):
        if key not in value:
            yield f"'{_join(at, key)}' is missing"
    for key, one in value.items():
        inner = named.get(key, expected.get("additionalProperties"))
        if isinstance(inner, dict):
            yield from problems(one, inner, _join(at, key))


def _array(value: list[Any], expected: _Schema, at: str) -> Iterator[str]:
    least, most = expected.get("minItems", 0), expected.get("maxItems", math.inf)
    if not least <= len(value) <= most:
        yield f"'{at}' has {len(value)} elements"
    if "items" in expected:
        for index, one in enumerate(value):
            yield from problems(one, expected["items"], f"{at}[{index}]")


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key
