"""Attack by attack: what each leaves of both models, path by path.

On each path an attack counts with those before it, as AutoAttack prints them: the last line of
"white-box" is what a plain evaluation ends with. Black-box attacks run on what white-box ones
left. Whatever was found against one model is replayed on the other ("transfer").

    python examples/paper/table8_attacks.py CASES.toml --results DIR [--cr 2^-6] [--form hard]
"""

from __future__ import annotations

from collections.abc import Sequence

from audits import ROLES
from cells import Bench, Cell, Variation
from common import make_parser, read, run
from words import conclusion, pair, remark

HEADER = ("path", "attack", "original %", "hardened %")


def rows(cell: Cell) -> list[list[str]]:
    """What is left after each attack of each path, and after all of them."""
    found = [["none", "clean accuracy", *pair(cell, "clean").split(" / ")]]
    paths = dict.fromkeys(line["path"] for line in cell.content["paths"])
    for path in paths:
        for line in cell.content["paths"]:
            if line["path"] == path:
                left = [f"{100 * line[role] / cell.n:.1f}" for role in ROLES]
                found.append([path, line["attack"], *left])
    return [*found, ["all", "worst case", *pair(cell, "worst").split(" / ")]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cr", default="2^-6")
    parser.add_argument("--form", default="hard", choices=("smooth", "hard", "soft"))
    given = parser.parse_args(arguments)
    cases, options = read(given)
    variation = Variation(f"{given.form} {given.cr}", given.cr, given.form)
    cells = [Bench.open(case, options).cell(variation) for case in cases]
    for case, cell in zip(cases, cells, strict=True):
        title = f"{case.name}, {variation.label}, linf {case.eps}, n = {cell.n}"
        options.show(title, HEADER, rows(cell))
        options.say(remark(cell))
    options.say(*conclusion(cells))


if __name__ == "__main__":
    run(main)
