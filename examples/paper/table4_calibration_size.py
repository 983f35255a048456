"""How many calibration samples it takes: thresholds from N of them, everything else the same.

The paper compares 5,000, 10,000 and 20,000 images, which change its robust accuracy by 0.23
points. A maximum over fewer samples is smaller, and so is the threshold: a table of its own
has each size's thresholds over those of all samples.

    python examples/paper/table4_calibration_size.py CASES.toml --results DIR [--sizes 20,200]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cells import Bench, Variation
from common import make_parser, read, run
from words import show_cells

from lipcompile.cli.options import parse_numbers


def ratios(bench: Bench, variation: Variation, whole: Variation) -> list[str]:
    """A row: how far the thresholds of a subset lie below those of all samples."""
    table, reference = bench.table(variation), bench.table(whole)
    found = np.array([site.absmax / reference[site.tensor] for site in table.sites])
    numbers = [f"{value:.3f}" for value in (np.median(found), found.min())]
    return [bench.case.name, variation.label, str(table.data.samples), *numbers]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cr", default="2^-6")
    parser.add_argument("--form", default="smooth", choices=("smooth", "hard", "soft"))
    parser.add_argument("--sizes", default="20,200", help="samples; all of them come last")
    parser.add_argument("--draws", type=int, default=1, help="subsets of each size")
    given = parser.parse_args(arguments)
    cases, options = read(given)
    sizes = [int(size) for size in parse_numbers("sizes", given.sizes) or ()]
    whole = Variation("all samples", given.cr, given.form)
    subsets = [
        Variation(
            f"{size} samples, draw {draw}", given.cr, given.form, calibration=size, draw=draw
        )
        for size in sizes
        for draw in range(given.draws)
    ]
    cells, rows = [], []
    for case in cases:
        bench = Bench.open(case, options)
        cells += [bench.cell(variation) for variation in (*subsets, whole)]
        rows += [ratios(bench, variation, whole) for variation in (*subsets, whole)]
    header = ("model", "setting", "samples", "threshold / that of all: median", "least")
    options.show("Thresholds of a subset", header, rows)
    show_cells(options, f"Calibration size, {given.form} at c_r = {given.cr}", cells)


if __name__ == "__main__":
    run(main)
