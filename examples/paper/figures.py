"""Panels of lines as SVG, without dates and random ids: same numbers, same file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from lipcompile import atomic

# Colour-blind safe (Okabe and Ito, "Color Universal Design", 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass(frozen=True, slots=True)
class Line:
    """A series of points with their intervals.

    Attributes:
        label: For the legend.
        x: Positions.
        y: Values.
        low: Lower ends of the intervals, where there are any.
        high: Upper ends.
        group: Lines of one group share a colour; None is black.
        reference: Drawn dashed: what is there without hardening.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    group: int | None = None
    reference: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: Above it.
        x_label: With the unit.
        y_label: With the unit.
        lines: What is drawn.
        ticks: Names of positions on the x axis, where numbers say nothing.
        doubling: Whether x doubles from point to point.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    ticks: Mapping[float, str] | None = None
    doubling: bool = False


def write(panels: Sequence[Panel], path: Path) -> None:
    """Draws the panels one below the other, and writes them as SVG."""
    style: Any = {  # Any: matplotlib names its keys one by one
        "svg.fonttype": "none",
        "svg.hashsalt": "lipcompile",
        "text.parse_math": False,
        "font.size": 11,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.5, 3.6 * len(panels)), layout="constrained")
        for axes, panel in zip(
            figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True
        ):
            _draw(axes, panel)
        stream = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=nothing)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, stream.getvalue())


def _draw(axes: matplotlib.axes.Axes, panel: Panel) -> None:
    for line in panel.lines:
        colour = "black" if line.group is None else COLOURS[line.group % len(COLOURS)]
        style = "--" if line.reference else "-"
        axes.plot(line.x, line.y, style, color=colour, marker="o", ms=3.5, label=line.label)
        if line.low is not None and line.high is not None:
            axes.vlines(line.x, line.low, line.high, color=colour, alpha=0.45, lw=1.2)
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    if panel.doubling:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.3g}")
    if panel.ticks is not None:
        axes.set_xticks(list(panel.ticks), list(panel.ticks.values()))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
