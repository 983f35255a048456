"""The shape of the forged function at one c_r: smooth with several a and b, hard, and soft.

    smooth: f(x) = x * sigmoid(a * (|x|/c - b))
    hard:   f(x) = x where |x| > c, else 0
    soft:   f(x) = sign(x) * max(|x| - c, 0)

The paper leaves the function open ("any function that satisfies the conditions" will do) and
its values of a and b are not public; `soft` is ours.

    python examples/paper/table2_forms.py CASES.toml --results DIR [--cr 2^-6]
"""

from __future__ import annotations

from collections.abc import Sequence

from cells import Bench, Variation
from common import make_parser, read, run
from words import show_cells

SHAPES = ((2.0, 1.0), (10.0, 1.0), (20.0, 1.0), (10.0, 0.5))  # a, b of smooth


def variations(cr: str) -> list[Variation]:
    smooth = [
        Variation(f"smooth a={a:g} b={b:g}", cr, "smooth", {"a": a, "b": b}) for a, b in SHAPES
    ]
    return [*smooth, Variation("hard", cr, "hard"), Variation("soft", cr, "soft")]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cr", default="2^-6")
    given = parser.parse_args(arguments)
    cases, options = read(given)
    cells = []
    for case in cases:
        bench = Bench.open(case, options)
        cells += [bench.cell(variation) for variation in variations(given.cr)]
    show_cells(options, f"Forms of the forged function at c_r = {given.cr}", cells)


if __name__ == "__main__":
    run(main)
