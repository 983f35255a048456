"""Clean and robust accuracy of models at several c_r, in the layout of the paper's main table.

Printed twice: with the paper's measure (white-box attacks with the exact gradient of each
model, which is what a plain evaluation does), and with the pointwise worst case over that,
surrogate gradients (BPDA), transfer in both directions and black-box attacks. A third table
has the paired differences, and says in words where the two disagree.

    python examples/paper/table1_clean_and_robust.py CASES.toml --results DIR [--cr 2^-8,2^-7]
"""

from __future__ import annotations

from collections.abc import Sequence

from audits import Measure
from cells import Bench, Cell, Variation
from common import make_parser, read, run
from words import HEADER, conclusion, ranged, row

TITLES: dict[Measure, str] = {
    "plain": "Robust accuracy as the paper measures it: white-box, exact gradients",
    "worst": "Robust accuracy in the adaptive worst case",
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cr", default="2^-8,2^-7,2^-6,2^-5", help="values with commas")
    parser.add_argument("--form", default="smooth", choices=("smooth", "hard", "soft"))
    given = parser.parse_args(arguments)
    cases, options = read(given)
    variations = [
        Variation(f"{given.form} {cr}", cr, given.form) for cr in given.cr.split(",")
    ]
    found: dict[str, list[Cell]] = {}
    for case in cases:
        bench = Bench.open(case, options)
        found[case.name] = [bench.cell(variation) for variation in variations]
    header = ["model", "n", "original: clean", "robust"]
    header += [x for v in variations for x in (f"{v.label}: clean", "robust")]
    for measure, title in TITLES.items():
        rows = [line(f"{case.name} ({case.eps})", found[case.name], measure) for case in cases]
        options.show(f"{title} (%, exact 95 % interval)", header, rows)
    cells = [cell for group in found.values() for cell in group]
    options.show("Hardened against original, paired", HEADER, [row(cell) for cell in cells])
    options.say(*conclusion(cells))


def line(name: str, cells: Sequence[Cell], measure: Measure) -> list[str]:
    """A model's row: the original, then every c_r."""
    first = cells[0]
    written = [
        name,
        str(first.n),
        ranged(first, "clean", "original"),
        original(cells, measure),
    ]
    for cell in cells:
        written += [ranged(cell, "clean", "hardened"), ranged(cell, measure, "hardened")]
    return written


def original(cells: Sequence[Cell], measure: Measure) -> str:
    """The original's robust accuracy; what breaks its opponents is replayed on it, so that its
    worst case is the least of all."""
    least = min(cells, key=lambda cell: cell.count(measure, "original"))
    return ranged(least, measure, "original")


if __name__ == "__main__":
    run(main)
