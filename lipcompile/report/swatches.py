"""The legend of a chart, as HTML beside the drawing: it wraps where the page is narrow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lipcompile.report.charts import Bars, Chart, Mark, Series
from lipcompile.report.plots import CROWDED, DASHES

_PATHS: dict[Mark, str] = {
    "circle": "M15 3a4 4 0 1 1 0 8a4 4 0 1 1 0-8z",
    "square": "M11.5 3.5h7v7h-7z",
    "up": "M15 2.5l4.3 8h-8.6z",
    "diamond": "M15 2l5 5l-5 5l-5-5z",
    "down": "M15 11.5l4.3-8h-8.6z",
    "plus": "M13.6 2.6h2.8v3h3v2.8h-3v3h-2.8v-3h-3v-2.8h3z",
    "cross": "M12 2l3 3l3-3l2 2l-3 3l3 3l-2 2l-3-3l-3 3l-2-2l3-3l-3-3z",
    "star": "M15 .5l1.9 4.3l4.6.4l-3.5 3.1l1 4.6l-4-2.4l-4 2.4l1-4.6l-3.5-3.1l4.6-.4z",
    "none": "",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a legend; `svg` is ours and safe, `name` may be anything."""

    svg: str
    name: str


def legend(figure: Chart | Bars) -> tuple[Entry, ...]:
    """A swatch and a name for every series and level."""
    return tuple(_bar_entries(figure) if isinstance(figure, Bars) else _chart_entries(figure))


def _bar_entries(bars: Bars) -> Iterator[Entry]:
    for index, series in enumerate(bars.series):
        faint = "opacity:.55;" if index == 0 else ""
        style = f"{faint}fill:var(--{series.ink})"
        body = f'<rect x="4" y="2" width="22" height="10" style="{style}"/>'
        yield Entry(_svg(body), series.name)


def _chart_entries(chart: Chart) -> Iterator[Entry]:
    for series in chart.series:
        yield Entry(_svg(_line(series) + _mark(series)), series.name)
    for level in chart.levels:
        line = f"stroke:var(--{level.ink});stroke-width:1.6;stroke-dasharray:6 3"
        yield Entry(_svg(f'<path d="M1 7h28" style="{line}"/>'), level.name)


def _line(series: Series) -> str:
    if not series.joined or len(series.x) < 2:
        return ""
    solid = len(series.x) > CROWDED
    lengths = () if solid else DASHES.get(series.ink, ())
    dashes = " ".join(f"{1.8 * length:g}" for length in lengths)
    style = (
        f"stroke:var(--{series.ink});stroke-width:{'5;opacity:.5' if series.under else 1.8}"
    )
    style += f";stroke-dasharray:{dashes}" if dashes else ""
    return f'<path d="M1 7h28" style="{style}"/>'


def _mark(series: Series) -> str:
    return f'<path d="{_PATHS[series.mark]}" style="fill:var(--{series.ink})"/>'


def _svg(body: str) -> str:
    size = 'viewBox="0 0 30 14" width="30" height="14"'
    return f'<svg class="swatch" {size} aria-hidden="true">{body}</svg>'
