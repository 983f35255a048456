"""What do zeroed columns and dropped channels cost, and what do they gain?

For every c_r and zero rate: the columns that become zero, the channels that are removed, the
size of the file and the latency over the original's (`lipcompile.measure.latency_ratio`, one
thread, batch 1 and 16 where the model allows it), correct answers on labelled images. Maxima
and counts for all settings come from two scans of other images than those that are counted.

    python benchmarks/weight_variant.py MODEL CALIBRATION LABELLED [flags of preprocessing]
        [--cr LIST] [--zero-rates LIST] [--pairs N]

The arguments are those of `clean_accuracy.py`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from clean_accuracy import Labelled, make_parser, read
from inference_overhead import feeds_for

import lipcompile
from lipcompile import RuntimeOptions
from lipcompile.errors import SelectionError
from lipcompile.measure import LatencyRatio, latency_ratio
from lipcompile.runtime import open_session

QUIET = RuntimeOptions(threads=1, spinning=False)


def ratios(images: Labelled, compact: Path, pairs: int) -> dict[int, LatencyRatio]:
    """Latency by batch size."""
    before, after = open_session(images.model, QUIET), open_session(compact, QUIET)
    feeds = {batch: feeds_for(images.model, batch) for batch in (1, 16)}
    lengths = {batch: len(next(iter(feed.values()))) for batch, feed in feeds.items()}
    return {
        batch: latency_ratio(before, after, feeds[batch], pairs)
        for batch in feeds
        if lengths[batch] == batch  # a fixed batch is what it is
    }


def zeroed(result: lipcompile.HardenResult) -> str:
    """ "384 of 2064", over all layers."""
    cells = [row.encoding.split() for row in result.rows if row.selected and row.encoding]
    return f"{sum(int(c[0]) for c in cells)} of {sum(int(c[2]) for c in cells)}"


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--cr", default="2^-8,2^-7,2^-6,2^-5")
    parser.add_argument("--zero-rates", default="1.0,0.999,0.99")
    parser.add_argument("--pairs", type=int, default=200)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    images = read(arguments)
    c_rs = arguments.cr.split(",")
    before = images.correct(images.model)
    print(f"{images.model.name}: {before.mean():.2%} of {len(images.labels)} before")
    table = lipcompile.calibrate(
        images.model, images.calibration, scan=images.scan, count_cr=c_rs
    )
    size = images.model.stat().st_size
    print(f"  maxima and counts from {table.data.samples} samples")
    with tempfile.TemporaryDirectory() as folder:
        for index, c_r in enumerate(c_rs):
            for rate in map(float, arguments.zero_rates.split(",")):
                output = Path(folder) / f"{index}.{rate}.onnx"
                try:
                    result = lipcompile.harden(
                        images.model,
                        table=table,
                        variant="weight",
                        cr=c_r,
                        zero_rate=rate,
                        compact=True,
                        output=output,
                    )
                except SelectionError:
                    print(f"  {c_r}, rate {rate}: no column qualifies", flush=True)
                    continue
                assert result.compaction is not None
                after = images.correct(output)
                gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
                dropped = sum(len(item.channels) for item in result.compaction.dropped)
                speed = ratios(images, output, arguments.pairs)
                print(
                    f"  {c_r}, rate {rate}: {zeroed(result)} columns zeroed, "
                    f"{dropped} channels dropped, "
                    f"{result.compaction.parameters} parameters fewer, "
                    f"size {output.stat().st_size / size:.3f}, "
                    f"{after.mean():.2%} ({gained} gained, {lost} lost), latency "
                    + ", ".join(f"batch {b}: {ratio}" for b, ratio in speed.items()),
                    flush=True,
                )


if __name__ == "__main__":
    main()
