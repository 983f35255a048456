"""The Weight variant: columns whose inputs stay below the threshold are zeroed.

The paper counts how often an input element is remapped to 0, and replaces such columns of the
weight by zeros, so that nothing is added to the model; which rate qualifies a column is not
public. Ours is the zero rate: 1 takes columns that were suppressed in every calibration
sample. Beside it stands the forged variant.

    python examples/paper/table5_weight_variant.py CASES.toml --results DIR [--rates 1,0.9]
"""

from __future__ import annotations

from collections.abc import Sequence

from cells import Bench, Cell, Variation
from common import make_parser, read, run
from words import HEADER, conclusion, row

from lipcompile.cli.options import parse_numbers


def variations(crs: Sequence[str], rates: Sequence[float]) -> list[Variation]:
    weight = [
        Variation(f"weight {cr}, rate {rate:g}", cr, None, zero_rate=rate)
        for cr in crs
        for rate in rates
    ]
    return [*(Variation(f"forged, hard {cr}", cr, "hard") for cr in crs), *weight]


def columns(cell: Cell) -> str:
    """ "384 of 2064", for the Weight variant."""
    found = cell.content.get("columns")
    return f"{found[0]} of {found[1]}" if found else "-"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cr", default="2^-7", help="values with commas")
    parser.add_argument("--rates", default="1,0.99,0.9", help="zero rates")
    given = parser.parse_args(arguments)
    cases, options = read(given)
    rates = parse_numbers("rates", given.rates) or ()
    cells = []
    for case in cases:
        bench = Bench.open(case, options)
        wanted = variations(given.cr.split(","), rates)
        cells += [bench.cell(variation) for variation in wanted]
    header = [*HEADER[:2], "columns zeroed", *HEADER[2:]]
    rows = [[*row(cell)[:2], columns(cell), *row(cell)[2:]] for cell in cells]
    options.show("The Weight variant", header, rows)
    options.say(*conclusion(cells))


if __name__ == "__main__":
    run(main)
