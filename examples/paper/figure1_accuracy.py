"""Accuracy against c_r, and against epsilon: clean, plain robust and worst case, both models.

The cells are those of table 1, so that it draws them at once where that has run. The second
panel is the audit's curve: one margin attack with the exact gradient, which is a plain
measure and no worst case.

    python examples/paper/figure1_accuracy.py CASES.toml --results DIR [--cr 2^-8,2^-7]

writes DIR/figure1_MODEL.svg and prints what it draws.
"""

from __future__ import annotations

from collections.abc import Sequence

from audits import MEASURES, ROLES, Measure
from cells import Bench, Cell, Variation
from common import make_parser, read, run
from figures import Line, Panel, write
from words import HEADER, conclusion, row

NAMES: dict[Measure, str] = {
    "clean": "clean",
    "plain": "robust, plain",
    "worst": "robust, worst case",
}


def against_cr(cells: Sequence[Cell], crs: Sequence[str]) -> Panel:
    """Hardened with exact 95 % intervals; the original beside each, dashed."""
    x = [float(i) for i in range(len(cells))]
    lines = []
    for group, measure in enumerate(MEASURES):
        beside = [i + 0.05 * (group - 1) for i in x]  # or equal lines would hide each other
        ends = [cell.interval(measure, "hardened") for cell in cells]
        y = [100 * cell.share(measure, "hardened") for cell in cells]
        low, high = ([100 * end[side] for end in ends] for side in (0, 1))
        lines.append(Line(f"{NAMES[measure]}, hardened", beside, y, low, high, group))
        before = [100 * cell.share(measure, "original") for cell in cells]
        label = f"{NAMES[measure]}, original"
        lines.append(Line(label, beside, before, group=group, reference=True))
    ticks = dict(zip(x, crs, strict=True))
    title = f"{cells[0].case}, n = {cells[0].n}"
    return Panel(title, "relative threshold c_r", "accuracy, %", lines, ticks)


def against_eps(cells: Sequence[Cell], crs: Sequence[str]) -> Panel:
    """The curve of each hardened model, and the original's from the first audit."""
    lines = []
    for index, (cell, cr) in enumerate(zip(cells, crs, strict=True)):
        for role in ROLES if index == 0 else ROLES[1:]:
            points = [p for p in cell.content["curve"] if p["model"] == role]
            label = "original" if role == "original" else f"hardened, {cr}"
            x, y = [p["eps"] for p in points], [100 * p["accuracy"] for p in points]
            known = None if role == "original" else index
            lines.append(Line(label, x, y, group=known, reference=known is None))
    title = "one white-box attack, right images only"
    return Panel(title, "epsilon, in pixel units [0, 1]", "accuracy, %", lines, doubling=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cr", default="2^-8,2^-7,2^-6,2^-5", help="values with commas")
    parser.add_argument("--form", default="smooth", choices=("smooth", "hard", "soft"))
    given = parser.parse_args(arguments)
    cases, options = read(given)
    crs = given.cr.split(",")
    cells: list[Cell] = []
    for case in cases:
        bench = Bench.open(case, options)
        found = [bench.cell(Variation(f"{given.form} {cr}", cr, given.form)) for cr in crs]
        path = options.results / f"figure1_{case.name}.svg"
        write([against_cr(found, crs), against_eps(found, crs)], path)
        print(f"wrote '{path}'")
        cells += found
    options.show("Figure 1, in numbers", HEADER, [row(cell) for cell in cells])
    options.say(*conclusion(cells))


if __name__ == "__main__":
    run(main)
