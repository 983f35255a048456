"""A report as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import count, groupby
from typing import TYPE_CHECKING

from lipcompile.extras import require_extra
from lipcompile.report.blocks import Block, Cell, Figure, Section
from lipcompile.version import __version__

if TYPE_CHECKING:
    from markupsafe import Markup

    from lipcompile.report.report import Report

_UNIT = re.compile(r"(?<=\d) (?=%|points)")
_BREAKS = re.compile(r"(?<=[/_])(?=[^/_])")  # where a long name may be broken
_LONG = 40  # rows of a table that is folded


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure as HTML.

    Attributes:
        svg: The drawing.
        legend: Swatch and name of each line.
        caption: What stands below.
    """

    svg: Markup
    legend: tuple[tuple[Markup, str], ...]
    caption: str


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures beside each other where the page is wide."""

    drawn: tuple[Drawn, ...]


def render(report: Report) -> str:
    """The whole page.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    require_extra("report", "jinja2", "matplotlib", "scipy")
    import jinja2
    from markupsafe import Markup

    home = files("lipcompile.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["cell"] = lambda cell: Cell(cell) if isinstance(cell, str) else cell
    environment.filters["tied"] = lambda text: _UNIT.sub("\u00a0", text)
    environment.filters["breaks"] = lambda text: Markup("<wbr>").join(_BREAKS.split(text))
    template = environment.from_string((home / "page.html.j2").read_text(encoding="utf-8"))
    evidence, numbers = report.evidence, count(1)
    return template.render(
        css=Markup((home / "page.css").read_text(encoding="utf-8")),
        title=report.heading,
        failures=evidence.failures,
        verdict=report.verdict,
        sections=[_Shown.of(section, numbers) for section in report.sections()],
        long=_LONG,
        version=__version__,
    )


@dataclass(frozen=True, slots=True)
class _Shown:
    """A section whose figures are drawn."""

    key: str
    title: str
    blocks: tuple[object, ...]

    @classmethod
    def of(cls, section: Section, numbers: Iterator[int]) -> _Shown:
        return cls(section.key, section.title, tuple(_drawn(section.blocks, numbers)))


def _drawn(blocks: Sequence[Block], numbers: Iterator[int]) -> Iterator[object]:
    for figures, group in groupby(blocks, key=lambda block: isinstance(block, Figure)):
        if figures:
            found = (_draw(one, next(numbers)) for one in group if isinstance(one, Figure))
            yield Figures(tuple(found))
        else:
            yield from group


def _draw(figure: Figure, number: int) -> Drawn:
    from markupsafe import Markup

    from lipcompile.report.plots import draw
    from lipcompile.report.swatches import legend

    chart = figure.make()
    entries = tuple((Markup(entry.svg), entry.name) for entry in legend(chart))
    svg = Markup(draw(chart, f"f{number}", figure.label))
    return Drawn(svg, entries, figure.caption)
