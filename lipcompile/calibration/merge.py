"""Merge tables: the table of all their samples together, whatever the order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from lipcompile.calibration.counts import add_counts
from lipcompile.calibration.table import CalibrationTable, DataRecord, add_digests
from lipcompile.errors import TableError


def merge_tables(tables: Iterable[CalibrationTable]) -> CalibrationTable:
    """The table of all samples together.

    Tables of one model, one preprocessing and the same sites merge in any order; counts add up
    where they were taken at the same thresholds. Two tables over the very same samples are
    refused; partly overlapping ones cannot be told, and count the shared samples twice, which
    leaves the maxima right.

    Raises:
        TableError: Nothing to merge, or the tables do not belong together.
    """
    rest = list(tables)
    if not rest:
        raise TableError("there is no table to merge: name at least one")
    _check_distinct(rest)
    merged = rest.pop(0)
    for table in rest:
        merged = _merge(merged, table)
    return merged


def _check_distinct(tables: Iterable[CalibrationTable]) -> None:
    seen: dict[str, DataRecord] = {}
    for data in (table.data for table in tables):
        if data.digest in seen:
            raise TableError(
                f"two tables were measured on the same {data.samples} samples "
                f"('{seen[data.digest].label}' and '{data.label}'): name each shard once"
            )
        seen[data.digest] = data


def _merge(left: CalibrationTable, right: CalibrationTable) -> CalibrationTable:
    _check_mergeable(left, right)
    sites = tuple(
        replace(a, absmax=max(a.absmax, b.absmax))
        for a, b in zip(left.sites, right.sites, strict=True)
    )
    return replace(
        left,
        model=_joined(left.model, right.model),
        sites=sites,
        data=_merge_data(left.data, right.data),
        input_range=merge_ranges(left.input_range, right.input_range),
        runtime=_joined(left.runtime, right.runtime),
        complete=left.complete and right.complete,
        counts=add_counts(left.counts, right.counts),
    )


def _check_mergeable(left: CalibrationTable, right: CalibrationTable) -> None:
    right.check_model(left.model_digest, left.model)
    if left.preprocess != right.preprocess:
        raise TableError(
            f"the tables were made with different preprocessing ({left.preprocess} and "
            f"{right.preprocess}): calibrate again with one"
        )
    if [(s.tensor, s.dtype) for s in left.sites] != [(s.tensor, s.dtype) for s in right.sites]:
        raise TableError(
            f"the tables hold different sites ({len(left.sites)} and {len(right.sites)}): "
            "calibrate again with the same --rule, --include and --exclude"
        )


def _merge_data(left: DataRecord, right: DataRecord) -> DataRecord:
    return DataRecord(
        kind=_joined(left.kind, right.kind),
        label=_joined(left.label, right.label),
        samples=left.samples + right.samples,
        digest=add_digests([left.digest, right.digest]),
        unreadable=tuple(sorted({*left.unreadable, *right.unreadable})),
        nonfinite=tuple(sorted({*left.nonfinite, *right.nonfinite})),
    )


def merge_ranges(
    left: Mapping[str, tuple[float, float]], right: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """The smallest interval per name that holds both; NaN counts as no value."""
    merged = dict(left)
    for name, (low, high) in right.items():
        before = merged.get(name, (low, high))
        merged[name] = (float(np.fmin(low, before[0])), float(np.fmax(high, before[1])))
    return merged


def _joined(left: str, right: str) -> str:
    return " + ".join(sorted({*left.split(" + "), *right.split(" + ")}))
