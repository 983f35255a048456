"""What a report is made of: values that the HTML page and the Markdown both render."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lipcompile.report.charts import Bars, Chart

Tone = Literal["good", "bad", "warn", "neutral"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What it says.
        note: What stands below it in small print: an interval, a reason.
        tone: Colour of the text; the text says the same without it.
    """

    text: str
    note: str = ""
    tone: Tone | None = None


Row = tuple[str | Cell, ...]


@dataclass(frozen=True, slots=True)
class Heading:
    """Starts a part of a section."""

    text: str


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Notice:
    """A paragraph that must not be overlooked."""

    text: str
    tone: Tone = "warn"


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """A command line."""

    text: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under column titles.

    Attributes:
        columns: Titles.
        rows: As many cells each as there are titles.
        numeric: Indices of the columns that hold numbers, which are set to the right.
        caption: What it shows.
        wide: Indices of the columns that hold sentences or long names.
        last_is_total: The last row sums up the others.
        stacked: On a narrow page each row becomes a heading with its numbers below.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    numeric: frozenset[int] = frozenset()
    caption: str = ""
    wide: frozenset[int] = frozenset()
    last_is_total: bool = False
    stacked: bool = False

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows)


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot, drawn where the output can hold one.

    Attributes:
        label: What it shows, for who does not see it.
        caption: What stands below it.
        make: Gives the data; called by the HTML page alone.
    """

    label: str
    caption: str
    make: Callable[[], Chart | Bars]


Block = Heading | Prose | Notice | Bullets | Code | Facts | Table | Figure


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report under its own heading.

    Attributes:
        key: Its anchor.
        title: Heading.
        blocks: From top to bottom.
    """

    key: str
    title: str
    blocks: tuple[Block, ...]
