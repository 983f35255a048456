"""What hardening costs: latency over the original's, and one scan of the data.

The paper calls its method cost-effective, since it needs a single pass over the data and no
gradient. That pass is timed here too. Latency is the median ratio of interleaved runs of one
image, with the 10 % and 90 % quantiles: on a busy machine, or with a model that takes
microseconds, it says little.

    python examples/paper/table7_latency.py CASES.toml --results DIR [--cr 2^-7]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from cells import Bench, Variation
from common import make_parser, read, run

from lipcompile.text import percent

HEADER = ("model", "setting", "latency / original", "10 % to 90 %", "pairs", "agreement")


def row(name: str, setting: dict[str, Any]) -> list[str]:
    """One setting; one that cannot be had says why."""
    if setting["problem"] is not None:
        return [name, setting["name"], "-", "-", "-", setting["problem"]]
    latency = setting["latency"]
    return [
        name,
        setting["name"],
        f"{latency['median']:.2f}",
        f"{latency['low']:.2f} to {latency['high']:.2f}",
        str(latency["pairs"]),
        percent(setting["agreement"]["value"]),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cr", default="2^-7", help="values with commas")
    given = parser.parse_args(arguments)
    cases, options = read(given)
    rows, scans = [], []
    for case in cases:
        bench = Bench.open(case, options)
        begin = time.perf_counter()
        samples = bench.table(Variation("")).data.samples
        seconds = time.perf_counter() - begin
        scans.append(f"{case.name}: {samples} calibration samples read in {seconds:.1f} s")
        found = bench.sweep(given.cr, ("smooth", "hard", "soft"), ("forged", "weight"))
        rows += [row(case.name, setting) for setting in found["settings"]]
    options.show("Cost at inference, one image at a time", HEADER, rows)
    options.say(*scans)


if __name__ == "__main__":
    run(main)
