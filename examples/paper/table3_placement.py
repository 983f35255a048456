"""Where the forged function stands: selection rules, and the first or last half of the layers.

The paper forges before each convolution of a ResNet and before both MLP layers of a
Transformer, and does not mention stem, classifier head and attention: rule auto is our
reading of that. Rule all takes those too, rule mlp the MLP layers alone (a model without them
says so).

    python examples/paper/table3_placement.py CASES.toml --results DIR [--each-layer]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from cells import Bench, Variation
from common import make_parser, read, run
from words import show_cells

import lipcompile


def selected(model: Path) -> list[str]:
    """Names of the layers that rule auto takes, in graph order."""
    return [row.layer for row in lipcompile.inspect(model).rows if row.selected]


def variations(layers: Sequence[str], cr: str, form: str, each: bool) -> list[Variation]:
    half = len(layers) // 2
    parts = {"first half": layers[:half], "last half": layers[half:]} if half else {}
    if each:
        parts |= {f"only {name}": [name] for name in layers}
    return [
        Variation("auto", cr, form),
        Variation("all", cr, form, rule="all"),
        Variation("mlp", cr, form, rule="mlp"),
        *(
            Variation(label, cr, form, include=tuple(f"^{re.escape(x)}$" for x in names))
            for label, names in parts.items()
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cr", default="2^-6")
    parser.add_argument("--form", default="smooth", choices=("smooth", "hard", "soft"))
    parser.add_argument("--each-layer", action="store_true", help="each layer alone as well")
    given = parser.parse_args(arguments)
    cases, options = read(given)
    cells = []
    for case in cases:
        bench = Bench.open(case, options)
        wanted = variations(selected(case.model), given.cr, given.form, given.each_layer)
        cells += [bench.cell(variation) for variation in wanted]
    show_cells(options, f"Placement, {given.form} at c_r = {given.cr}", cells)


if __name__ == "__main__":
    run(main)
