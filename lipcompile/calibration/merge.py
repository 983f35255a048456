"""Merge tables: the table of all their samples together, whatever the order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from lipcompile.calibration.counts import add_counts
from lipcompile.calibration.data_record import DataRecord
from lipcompile.calibration.shards import ShardRecord, join_shards
from lipcompile.calibration.sketch import join
from lipcompile.calibration.table import CalibrationTable
from lipcompile.calibration.tally import add_digests, merge_ranges
from lipcompile.errors import TableError


def merge_tables(
    tables: Iterable[CalibrationTable], *, allow_overlap: bool = False
) -> CalibrationTable:
    """The table of all samples together.

    Tables of one model, one preprocessing and the same sites merge in any order; counts add up
    where they were taken at the same thresholds. Shards (`ScanOptions.shard`) have to be of
    one division, and each may enter once. Other tables must not share samples, as far as their
    sketches tell (`calibration.sketch`).

    Args:
        tables: What to merge.
        allow_overlap: Let tables share samples, for example where the data holds copies: they
            count twice then, and the maxima stay right.

    Raises:
        TableError: Nothing to merge, or the tables do not belong together.
    """
    rest = list(tables)
    if not rest:
        raise TableError("there is no table to merge: name at least one")
    _check_distinct(rest)
    shards = [table.data.shards for table in rest if table.data.shards is not None]
    if shards:
        _check_shards(rest, shards)
    elif not allow_overlap:
        _check_apart(rest)
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


def _check_shards(tables: Sequence[CalibrationTable], shards: Sequence[ShardRecord]) -> None:
    whole = next((table.data for table in tables if table.data.shards is None), None)
    if whole is not None:
        raise TableError(
            f"'{whole.label}' ({whole.samples} samples) is no shard, and another table is "
            f"{shards[0]}: merge all shards of that first, then merge the result with this"
        )
    first, held = shards[0], set[int]()
    for shard in shards:
        if (shard.division, shard.count) != (first.division, first.count):
            raise TableError(
                f"{first} and {shard} are of different data, another --samples or --seed, or "
                "another number of shards: merge the shards of one division, made by the same "
                "command but for --shard"
            )
        if twice := held & set(shard.held):
            raise TableError(
                f"shard {min(twice)} of {shard.count} is in two of the tables: name each once"
            )
        held.update(shard.held)


def _check_apart(tables: Sequence[CalibrationTable]) -> None:
    seen: dict[int, str] = {}
    for data in (table.data for table in tables):
        if common := [value for value in data.sketch if value in seen]:
            raise TableError(
                f"'{seen[common[0]]}' and '{data.label}' share samples, at least "
                f"{len(common)}: name each sample once, or pass --allow-overlap, which counts "
                "them twice and leaves the maxima right"
            )
        seen.update(dict.fromkeys(data.sketch, data.label))


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
        sketch=join(left.sketch, right.sketch),
        shards=left.shards and right.shards and join_shards(left.shards, right.shards),
    )


def _joined(left: str, right: str) -> str:
    return " + ".join(sorted({*left.split(" + "), *right.split(" + ")}))
