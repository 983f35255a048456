"""A report as Markdown for a pull-request comment: the verdict first, details folded."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lipcompile.markdown_text import escape
from lipcompile.report.blocks import (
    Block,
    Bullets,
    Cell,
    Code,
    Facts,
    Figure,
    Heading,
    Notice,
    Prose,
    Section,
    Table,
    Tone,
)
from lipcompile.report.wording import MISSING

if TYPE_CHECKING:
    from lipcompile.report.report import Report

_MOST_ROWS = 40
_LONGEST = 60_000  # GitHub takes comments of up to 65,536 characters
_OPEN = {"compared", "numbers"}  # sections that are not folded
_MARKS: dict[Tone | None, str] = {"bad": "**", "warn": "**"}


def render(report: Report) -> str:
    """The whole comment."""
    verdict = report.verdict
    parts = [f"## {escape(report.heading)}"]
    parts += [f"**{escape(failure)}**" for failure in report.evidence.failures]
    parts.append(f"### Verdict: {escape(verdict.word)}")
    headline = [] if verdict.headline.lower() == verdict.word.lower() else [verdict.headline]
    parts += [escape(text) for text in (*(f"{one}." for one in headline), *verdict.text)]
    # The key numbers stand before the facts: a comment is read from the top.
    sections = sorted(report.sections(), key=lambda one: one.key != "numbers")
    folded = [part for section in sections for part in _section(section)]
    text = "\n\n".join([*parts, *folded]) + "\n"
    if len(text) <= _LONGEST:
        return text
    # Half a table would be worse than none, and a comment that is refused worst.
    kept = [part for one in sections if one.key in _OPEN for part in _section(one)]
    more = "(The details are too long for a comment: see the HTML or JSON report.)"
    return "\n\n".join([*parts, *kept, more]) + "\n"


def _section(section: Section) -> Iterator[str]:
    blocks = [part for block in section.blocks for part in _block(block)]
    if section.key in _OPEN:
        yield from blocks
    elif blocks:
        yield f"<details><summary>{html.escape(section.title)}</summary>"
        yield from blocks
        yield "</details>"


def _block(block: Block) -> Iterator[str]:
    match block:
        case Heading():
            yield f"**{escape(block.text)}**"
        case Prose():
            yield escape(block.text)
        case Notice():
            mark = _MARKS.get(block.tone, "")
            yield f"{mark}{escape(block.text)}{mark}"
        case Bullets():
            yield "\n".join(f"- {escape(item)}" for item in block.items)
        case Code():
            yield _fenced(block.text)
        case Facts():
            yield "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in block.rows)
        case Table():
            yield from _table(block)
        case Figure():
            return  # a comment cannot hold a drawing; its numbers are in the tables


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"


def _table(table: Table) -> Iterator[str]:
    if table.caption:
        yield f"{escape(table.caption.rstrip('.'))}:"
    rules = [" ---: " if i in table.numeric else " --- " for i in range(len(table.columns))]
    lines = [_line([escape(column) for column in table.columns]), f"|{'|'.join(rules)}|"]
    lines += [_line([_cell(cell) for cell in row]) for row in table.rows[:_MOST_ROWS]]
    rest = len(table.rows) - _MOST_ROWS
    yield "\n".join(lines)
    if rest > 0:
        yield f"({rest} more rows are in the HTML and JSON reports.)"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return escape(cell) or MISSING
    mark = _MARKS.get(cell.tone, "")
    text = f"{mark}{escape(cell.text)}{mark}"
    return f"{text} ({escape(cell.note)})" if cell.note else text
