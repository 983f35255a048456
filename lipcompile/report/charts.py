"""Plots as data: what is drawn, without the library that draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Ink = Literal["original", "hardened", "s1", "s2", "s3", "s4", "s5", "s6", "accent"]
Mark = Literal["circle", "square", "up", "diamond", "down", "plus", "cross", "star", "none"]
Unit = Literal["share", "points", "number", "log"]
MARKS: tuple[Mark, ...] = ("circle", "square", "up", "diamond", "down", "plus")
INKS: tuple[Ink, ...] = ("s1", "s2", "s3", "s4", "s5", "s6")


@dataclass(frozen=True, slots=True)
class Series:
    """Points, with or without intervals.

    Attributes:
        name: In the legend.
        x: Positions.
        y: Values; as many.
        low: Lower ends of the intervals, or empty.
        high: Upper ends.
        ink: Colour, named by its part.
        mark: Shape of the points.
        joined: Whether a line joins them.
        under: Drawn broad and pale, so that a line on top of it leaves it in sight.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    ink: Ink = "s1"
    mark: Mark = "circle"
    joined: bool = True
    under: bool = False

    def __post_init__(self) -> None:
        assert len(self.x) == len(self.y)
        assert len(self.low) == len(self.high) in (0, len(self.x))


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line, with or without a band.

    Attributes:
        name: In the legend.
        y: Where.
        band: Lower and upper end of the interval around it.
        ink: Colour.
    """

    name: str
    y: float
    band: tuple[float, float] | None = None
    ink: Ink = "original"


@dataclass(frozen=True, slots=True)
class Chart:
    """Values over a number.

    Attributes:
        x_label: With its unit.
        y_label: With its unit.
        series: In the order of the legend.
        levels: Horizontal lines.
        x_scale: "layers" are whole numbers from 1, "powers" powers of two.
        y_scale: "share" shows 0.5 as 50, "points" as +50.
        y_range: Limits, or None to fit the points.
        mark_x: A vertical line, and what it is called.
        ticks: For "powers": places on the x axis and their names, where it has no two powers.
    """

    x_label: str
    y_label: str
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()
    x_scale: Literal["linear", "layers", "powers"] = "linear"
    y_scale: Unit = "share"
    y_range: tuple[float, float] | None = None
    mark_x: tuple[float, str] | None = None
    ticks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Bars:
    """Pairs of horizontal bars.

    Attributes:
        x_label: With its unit.
        rows: Names, from top to bottom.
        series: One bar per row and series; `x` counts rows from 0, `y` is the length.
    """

    x_label: str
    rows: tuple[str, ...]
    series: tuple[Series, ...]
