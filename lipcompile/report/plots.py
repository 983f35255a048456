"""Draws charts as SVG with matplotlib; the only module that knows of it."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from lipcompile.report.charts import Bars, Chart, Ink, Level, Mark, Series
from lipcompile.report.svg import GRID, PAPER, TEXT, colour, inline

# Units are those of the view box, which a page shows as CSS pixels.
_WIDTH, _HEIGHT = 390, 272
_ROW = 33
_POINTS = 72
CROWDED = 24  # points of one series; beyond it only some get a mark
_MARKERS: Mapping[Mark, str] = {
    "circle": "o",
    "square": "s",
    "up": "^",
    "diamond": "D",
    "down": "v",
    "plus": "P",
    "cross": "X",
    "star": "*",
    "none": "",
}
# The same name for a line in the legend: see swatches.py.
DASHES: Mapping[Ink, tuple[float, ...]] = {
    "s2": (5, 2),
    "s3": (6, 2, 1.5, 2),
    "s4": (2, 1.5),
    "s5": (8, 3),
    "s6": (1, 1.5),
}
# Any: matplotlib names its keys one by one, and other ones in each version.
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lipcompile",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.family": "DejaVu Sans",
    "font.size": 12.5,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelsize": 12.5,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "xtick.major.size": 4,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
}


def draw(figure: Chart | Bars, prefix: str, label: str) -> str:
    """An <svg> element for an HTML page.

    Args:
        figure: What to draw.
        prefix: What every id in it starts with; another one for each figure of a page.
        label: For who does not see it.
    """
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # Text is drawn by the browser, whatever fonts matplotlib has.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas = _bars(figure) if isinstance(figure, Bars) else _chart(figure)
        stream = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(stream, format="svg", metadata=nothing)
    return inline(stream.getvalue(), prefix, label)


def _chart(chart: Chart) -> Figure:
    canvas = Figure(figsize=(_WIDTH / _POINTS, _HEIGHT / _POINTS), dpi=_POINTS)
    axes = canvas.add_axes((0.125, 0.185, 0.835, 0.71))
    for level in chart.levels:
        _level(axes, level)
    for series in chart.series:
        _series(axes, series)
    _scale_x(axes, chart)
    _scale_y(axes, chart)
    if chart.mark_x is not None:
        _mark(axes, *chart.mark_x)
    axes.set_xlabel(chart.x_label, labelpad=5)
    # Above the axis, where it takes no width from the plot.
    canvas.text(0.005, 0.985, chart.y_label, ha="left", va="top")
    return canvas


def _level(axes: Axes, level: Level) -> None:
    axes.axhline(
        level.y, color=colour(level.ink), linewidth=1.6, linestyle=(0, (6, 3)), zorder=2
    )
    if level.band is not None:
        axes.axhspan(*level.band, color=colour(level.ink), alpha=0.12, linewidth=0, zorder=1)


def _series(axes: Axes, series: Series) -> None:
    ink = colour(series.ink)
    if series.low:
        below = [max(y - low, 0.0) for y, low in zip(series.y, series.low, strict=True)]
        above = [max(high - y, 0.0) for y, high in zip(series.y, series.high, strict=True)]
        axes.errorbar(
            series.x,
            series.y,
            yerr=[below, above],
            fmt="none",
            color=ink,
            elinewidth=1.3,
            capsize=6 if series.under else 3,
            alpha=0.8,
            zorder=3,
        )
    crowded = len(series.x) > CROWDED
    dashes = None if crowded else DASHES.get(series.ink)
    line = 5 if series.under else 1.2 if crowded else 1.8
    axes.plot(
        series.x,
        series.y,
        color=ink,
        linewidth=line if series.joined else 0,
        linestyle=(0, dashes) if dashes else "-",
        marker=_MARKERS[series.mark],
        markersize={"star": 13}.get(series.mark, 11 if series.under else 7),
        alpha=0.5 if series.under else 1,
        markevery=math.ceil(len(series.x) / 12) if crowded else 1,
        markeredgecolor=PAPER,
        markeredgewidth=0.8,
        zorder=5 if series.mark == "star" else 3.5 if series.under else 4,
    )


def _scale_x(axes: Axes, chart: Chart) -> None:
    places = [x for series in chart.series for x in series.x]
    if chart.x_scale == "powers":
        axes.set_xscale("log", base=2)
        first, last = math.log2(min(places)), math.log2(max(places))
        axes.set_xlim(2 ** (first - 0.4), 2 ** (last + 0.4))
        whole = range(math.floor(first + 0.01), math.ceil(last - 0.01) + 1)
        step = math.ceil(len(whole) / 8)
        kept = [k for k in whole[::step] if first - 0.4 <= k <= last + 0.4]
        ticks = [(2.0**k, f"2^{k}") for k in kept]
        if len(ticks) < 2 and chart.ticks:
            ticks = list(chart.ticks[:: math.ceil(len(chart.ticks) / 6)])
        axes.set_xticks([place for place, _ in ticks], [name for _, name in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    elif chart.x_scale == "layers":
        axes.set_xlim(min(places) - 0.5, max(places) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _scale_y(axes: Axes, chart: Chart) -> None:
    if chart.y_scale == "log":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=7))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        return
    if chart.y_range is not None:
        low, high = chart.y_range
        margin = 0.03 * (high - low)
        axes.set_ylim(low - margin, high + margin)
    if chart.y_scale == "number":
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        return
    sign = "+" if chart.y_scale == "points" else ""
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _hundredfold(y, sign)))


def _hundredfold(value: float, sign: str) -> str:
    shown = round(100 * value, 6)
    return "0" if shown == 0 else f"{shown:{sign}g}"


def _mark(axes: Axes, place: float, name: str) -> None:
    axes.axvline(place, color=TEXT, linewidth=1, linestyle=(0, (1, 3)), zorder=1.5)
    # On the side that has room for it.
    right = axes.transData.transform((place, 1))[0] > axes.transAxes.transform((0.7, 0))[0]
    axes.annotate(
        name,
        (place, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if right else 5, 0),
        textcoords="offset points",
        ha="right" if right else "left",
        va="bottom",
        fontsize=11,
    )


def _bars(bars: Bars) -> Figure:
    height = _ROW * len(bars.rows) + 44
    canvas = Figure(figsize=(_WIDTH / _POINTS, height / _POINTS), dpi=_POINTS)
    names = [_cut(name) for name in bars.rows]
    left = min(0.49, 0.04 + 0.0178 * max(map(len, names)))
    axes = canvas.add_axes((left, 40 / height, 0.985 - left, 1 - 44 / height))
    axes.grid(visible=False, axis="y")
    longest = max((max(s.high or s.y, default=0.0) for s in bars.series), default=0.0)
    for index, series in enumerate(bars.series):
        _bar_series(axes, series, index, len(bars.series), longest or 1.0)
    axes.set_yticks(range(len(names)), names, fontsize=12)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, (longest or 1.0) * 1.12)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.set_xlabel(bars.x_label, labelpad=5)
    if len(names) > 1:
        axes.axhline(len(names) - 1.5, color=GRID, linewidth=1.2)
    return canvas


def _bar_series(axes: Axes, series: Series, index: int, of: int, longest: float) -> None:
    thick = 0.72 / of
    ink = colour(series.ink)
    for x, y, low, high in zip(
        series.x, series.y, series.low or series.y, series.high or series.y, strict=True
    ):
        place = x - 0.36 + thick * (index + 0.5)
        axes.barh(
            place,
            y,
            height=thick * 0.84,
            color=ink,
            alpha=0.55 if index == 0 else 1,
            linewidth=0,
            zorder=3,
        )
        if high > low:
            spread: Sequence[Sequence[float]] = [[max(y - low, 0.0)], [max(high - y, 0.0)]]
            axes.errorbar(
                y,
                place,
                xerr=spread,
                fmt="none",
                color=TEXT,
                elinewidth=1.2,
                capsize=2.5,
                zorder=4,
            )
        axes.text(high + 0.012 * longest, place, f"{y:g}", va="center", fontsize=11)


def _cut(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:24]}..."
