"""Our reading of the schema against a real validator, and results with anything missing."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from lipcompile.documents import Kind
from lipcompile.errors import DataError
from lipcompile.report import Report
from lipcompile.report.blocks import Figure
from lipcompile.report.shape import problems, schema
from tests.report import documents as made

CONTENTS: dict[str, made.JSON] = {
    "harden": made.harden(made.NAMES[:1]),
    "audit": made.audit("improved"),
    "sweep": made.short_sweep(),
    "verify": made.verify(),
    "certify": made.certify(),
    "smoothing": made.smoothed(),
}
REPLACED = (None, "text", -1.5, True, [], {})


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a value stands; of the elements of a list, the first stands for all."""
    if at:
        yield at
    if isinstance(value, dict):
        for key, one in value.items():
            yield from places(one, (*at, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*at, 0))


def changed(content: made.JSON, at: tuple[Any, ...], new: object) -> made.JSON:
    """A copy with another value there; ... removes it."""
    copied = copy.deepcopy(content)
    inner: Any = copied
    for key in at[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[at[-1]]
    else:
        inner[at[-1]] = new
    return copied


def kind_of(content: made.JSON) -> Kind:
    return content["schema"].removeprefix("lipcompile.").partition("/")[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", CONTENTS)
def test_agrees_with_a_real_validator(name: str) -> None:
    content = CONTENTS[name]
    kind = kind_of(content)
    rules = {**schema(), **schema()["$defs"][kind]}
    for key in ("title", "required", "properties"):
        rules[key] = schema()["$defs"][kind].get(key, rules[key])
    validator = jsonschema.Draft202012Validator(rules)
    # What no report reads would only cost time.
    content = {k: v for k, v in content.items() if k not in ("labels", "names", "files")}
    assert validator.is_valid(content)
    assert not list(problems(content, schema()["$defs"][kind], ""))
    refused = 0
    for index, at in enumerate(places(content)):
        for new in (..., REPLACED[index % len(REPLACED)]):
            found = changed(content, at, new)
            ours = list(problems(found, schema()["$defs"][kind], ""))
            assert bool(ours) != validator.is_valid(found), (at, new, ours)
            refused += bool(ours)
    assert refused > 20


@pytest.mark.parametrize("name", CONTENTS)
def test_what_passes_can_be_shown(name: str) -> None:
    """Whatever is missing or null: a message, or a report; never an exception."""
    shown = 0
    kind = kind_of(CONTENTS[name])
    for index, at in enumerate(places(CONTENTS[name])):
        for new in (..., REPLACED[index % len(REPLACED)]):
            content = changed(CONTENTS[name], at, new)
            try:
                report = Report((made.document(kind, content),))
            except DataError:
                continue
            report.to_markdown()
            blocks = [block for one in report.sections() for block in one.blocks]
            for block in blocks:
                if isinstance(block, Figure):
                    block.make()
            shown += 1
    assert shown > 10
