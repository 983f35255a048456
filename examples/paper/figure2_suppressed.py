"""Share of suppressed inputs by layer and depth, beside what is 0 anyway.

The paper's figure shows the fraction of activations below the threshold (on Swin-L about 20 %
before FC1, 30 to 95 % before FC2, by depth). Behind a ReLU much of that is 0 without any
threshold: the dashed line. Only what lies above it is due to hardening.

    python examples/paper/figure2_suppressed.py CASES.toml --results DIR [--cr 2^-9:2^-5]

writes DIR/figure2_MODEL.svg and prints what it draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cells import Bench
from common import make_parser, read, run
from figures import Line, Panel, write


def panel(name: str, document: dict[str, Any]) -> Panel:
    """Layers along the x axis, in graph order."""
    known = [
        series for series in (document["baseline"], *document["settings"]) if series["layers"]
    ]
    lines = []
    names = [layer["layer"] for layer in document["baseline"]["layers"]]
    for index, series in enumerate(known):
        found = [_layer(series, layer) for layer in names]
        y = [layer["suppressed"] if layer else None for layer in found]
        x = [float(i + 1) for i, value in enumerate(y) if value is not None]
        shares = [100 * value for value in y if value is not None]
        label = series.get("name", "0 without hardening").removeprefix("hard ")
        group = index - 1 if index else None
        lines.append(Line(label, x, shares, group=group, reference=group is None))
    label = "layer, in graph order"
    return Panel(name, label, "suppressed inputs, %", lines)


def rows(document: dict[str, Any]) -> list[list[str]]:
    """One line per layer: what is 0 anyway, then each c_r."""
    table = []
    for index, layer in enumerate(document["baseline"]["layers"]):
        name = layer["layer"]
        found = [layer, *(_layer(x, name) for x in document["settings"] if x["layers"])]
        shares = [x["suppressed"] if x else None for x in found]
        cells = ["-" if share is None else f"{100 * share:.1f}" for share in shares]
        table.append([str(index + 1), name, *cells])
    return table


def _layer(setting: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((x for x in setting["layers"] if x["layer"] == name), None)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cr", default="2^-9:2^-5", help="a range, or values with commas")
    given = parser.parse_args(arguments)
    cases, options = read(given)
    for case in cases:
        document = Bench.open(case, options).sweep(given.cr)
        path = options.results / f"figure2_{case.name}.svg"
        write([panel(case.name, document)], path)
        names = [x["name"].removeprefix("hard ") for x in document["settings"] if x["layers"]]
        header = ["", "layer", "0 anyway, %", *(f"{name}, %" for name in names)]
        options.show(f"{case.name}: suppressed inputs", header, rows(document))
        print(f"\nwrote '{path}'")
    options.say("only what a threshold adds to the column '0 anyway' is due to hardening")


if __name__ == "__main__":
    run(main)
