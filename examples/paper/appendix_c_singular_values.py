"""Largest singular value of the masked weights over that of the whole, worst and mean.

For each calibration input that is looked at, the columns of a weight W whose inputs are at
most c are masked: sigma(W M) / sigma(W). The paper reports about 95 % in the worst case
(Swin-L, appendix C). Behind a ReLU, zeros mask columns without any threshold: that is the
column "zeros anyway".

This is about one fixed mask at a time. It bounds nothing about the map x -> W f(x), and is no
certificate.

    python examples/paper/appendix_c_singular_values.py CASES.toml --results DIR
        [--cr 2^-9:2^-5]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cells import Bench
from common import make_parser, read, run


def rows(document: dict[str, Any]) -> list[list[str]]:
    """One line per layer, and one over all layers."""
    known = [x for x in (document["baseline"], *document["settings"]) if x["layers"]]
    lines = []
    for layer in document["baseline"]["layers"]:
        found = [layer_of(series, layer["layer"]) for series in known]
        lines.append([layer["layer"], *(ratio(x) if x else "-" for x in found)])
    return [*lines, ["all: worst, mean of means", *(ratio(series) for series in known)]]


def layer_of(series: dict[str, Any], name: str) -> dict[str, Any] | None:
    """By its name: settings need not have the same layers."""
    return next((x for x in series["layers"] if x["layer"] == name), None)


def ratio(said: dict[str, Any]) -> str:
    """ "0.998 / 0.843": worst and mean; "-" where the weight is no matrix."""
    worst, mean = said["singular_worst"], said["singular_mean"]
    return "-" if worst is None else f"{worst:.3f} / {mean:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cr", default="2^-9:2^-5", help="a range, or values with commas")
    given = parser.parse_args(arguments)
    cases, options = read(given)
    for case in cases:
        document = Bench.open(case, options).sweep(given.cr)
        names = [x["name"].removeprefix("hard ") for x in document["settings"] if x["layers"]]
        header = ["layer", "zeros anyway", *names]
        title = f"{case.name}: singular value left, worst / mean over inputs"
        options.show(title, header, rows(document))
        worst = [document["baseline"]["singular_worst"]]
        worst += [x["singular_worst"] for x in document["settings"] if x["layers"]]
        if None not in worst:
            options.say(
                f"worst case over layers and inputs: {worst[0]:.3f} without hardening, "
                f"{worst[-1]:.3f} at the largest c_r"
            )


if __name__ == "__main__":
    run(main)
