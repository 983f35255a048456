"""What does an ensemble over views cost, and which way of building it is faster?

Latency of the wrapped model over the original's, for both ways: all views in one batch, and
one branch of the graph per view. All sessions of a model live in one process and take turns
(`inference_overhead.timed`); a ratio is of two runs of one round. The budget is 2.05 for
`flip` at batch 1. Beside it stands by how much the file grows.

    python benchmarks/ensemble_latency.py MODEL ... [--views flip] [--batch 1,16] [--threads N]
        [--image-input NAME] [--pairs N] [--seconds S]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
from inference_overhead import feeds_for, timed

import lipcompile
from lipcompile import EnsembleOptions, RuntimeOptions, model_io
from lipcompile.ensembles.options import Way
from lipcompile.errors import LipCompileError
from lipcompile.measure import LatencyRatio
from lipcompile.runtime import Session, open_session

HEADER = "| model | views | batch | one batch | branches | file, one batch | file, branches |"


def wrapped(path: Path, way: Way, arguments: argparse.Namespace) -> bytes | None:
    """The model inside of an ensemble; None where it does not allow this way (told why)."""
    options = EnsembleOptions(arguments.views, by=way, image_input=arguments.image_input)
    loaded = model_io.load(path)
    try:
        result = lipcompile.harden(loaded.proto, ensemble=options)
    except LipCompileError as error:
        print(error, file=sys.stderr)
        return None
    return model_io.serialize(result.model)


def rows(path: Path, arguments: argparse.Namespace) -> Iterator[str]:
    options = RuntimeOptions(threads=arguments.threads, spinning=False)
    original = open_session(path, options)
    contents = {way: wrapped(path, way, arguments) for way in get_args(Way)}
    sessions = {way: open_session(c, options) for way, c in contents.items() if c is not None}
    size = path.stat().st_size
    growth = [f"{len(c) / size - 1:+.2%}" if c else "-" for c in contents.values()]
    for batch in map(int, arguments.batch.split(",")):
        feeds = feeds_for(path, batch)
        if any(len(array) != batch for array in feeds.values()):
            continue
        found = ratios(original, sessions, feeds, arguments)
        cells = [str(found.get(way, "-")) for way in get_args(Way)]
        yield " | ".join(["", path.stem, arguments.views, str(batch), *cells, *growth, ""])


def ratios(
    original: Session,
    sessions: dict[Way, Session],
    feeds: dict[str, np.ndarray],
    arguments: argparse.Namespace,
) -> dict[Way, LatencyRatio]:
    running = [original, *sessions.values()]
    spent = timed(running, feeds, arguments.pairs, arguments.seconds)
    found = {}
    for column, way in enumerate(sessions, start=1):
        ratio = spent[:, column] / spent[:, 0]
        low, median, high = (float(q) for q in np.quantile(ratio, [0.1, 0.5, 0.9]))
        found[way] = LatencyRatio(median, low, high, len(ratio))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--views", default="flip")
    parser.add_argument("--image-input")
    parser.add_argument("--batch", default="1,16", help="batch sizes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=200, help="rounds, at most")
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    print(HEADER)
    print("|---" * HEADER.count(" | ") + "|---|", flush=True)
    for path in arguments.models:
        for row in rows(path, arguments):
            print(row.strip(), flush=True)


if __name__ == "__main__":
    main()
