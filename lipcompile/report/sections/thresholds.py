"""What `harden` did to each layer: calibrated maximum, threshold, encoding."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lipcompile.report.blocks import Block, Cell, Figure, Prose, Row, Section, Table
from lipcompile.report.charts import Chart, Series
from lipcompile.report.evidence import Content, Evidence
from lipcompile.report.wording import MISSING, c_r, quantity


def thresholds(evidence: Evidence) -> Section | None:
    """Thresholds and maxima, layer by layer."""
    if evidence.harden is None or not evidence.harden["layers"]:
        return None
    layers = evidence.harden["layers"]
    done = [row for row in layers if row["selected"] and _drawable(row["c"])]
    left = sum(not row["selected"] for row in layers)
    chosen = f"{len(layers) - left} of {len(layers)} linear layers were hardened"
    blocks: list[Block] = [Prose(f"{chosen}, {left} left alone.")]
    if done:
        blocks.append(
            Figure(
                "largest activation and threshold of each layer, on a log scale",
                "Largest |x| over the calibration data, and the threshold c = c_r * max |x|, "
                "by layer; numbers as in the table.",
                lambda: _chart(layers),
            )
        )
    blocks.append(
        Table(
            ("no.", "layer", "input", "max |x|", "c_r", "c", "how"),
            tuple(_row(i, row) for i, row in enumerate(layers, start=1)),
            frozenset({0, 3, 4, 5}),
            "Linear layers in order",
            frozenset({1, 2, 6}),
        )
    )
    return Section("thresholds", "Thresholds and maxima", tuple(blocks))


def _drawable(value: float | None) -> bool:
    """Whether a log scale has a place for it."""
    return value is not None and 0 < value < math.inf


def _row(index: int, row: Content) -> Row:
    name = Cell(row["layer"], row["op_type"])
    if not row["selected"]:
        reason = f"left alone: {row['code']}"
        return (str(index), name, *[MISSING] * 4, Cell(reason, row["reason"] or ""))
    return (
        str(index),
        name,
        Cell(row["tensor"] or MISSING, row["dtype"] or ""),
        quantity(row["absmax"]),
        c_r(row["c_r"]),
        quantity(row["c"]),
        row["encoding"] or MISSING,
    )


def _chart(layers: Sequence[Content]) -> Chart:
    kept = [(float(i), row) for i, row in enumerate(layers, start=1) if row["selected"]]
    series = []
    for name, key, mark, ink in (
        ("max |x|", "absmax", "circle", "original"),
        ("threshold c", "c", "square", "hardened"),
    ):
        found = [(i, float(row[key])) for i, row in kept if _drawable(row[key])]
        x, y = zip(*found, strict=True) if found else ((), ())
        series.append(Series(name, x, y, ink=ink, mark=mark))  # type: ignore[arg-type]
    return Chart(
        "layer (in order)",
        "|x|, in units of the layer's input",
        tuple(series),
        x_scale="layers",
        y_scale="log",
    )
