"""Variant "weight": columns whose inputs are suppressed become zero, and dead channels go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lipcompile import model_io
from lipcompile.calibration.table import CalibrationTable
from lipcompile.errors import SelectionError
from lipcompile.layer_cr import LayerCr
from lipcompile.linear_layers import Refusal
from lipcompile.model_io import LoadedModel
from lipcompile.passes.drop_dead_channels import CompactionReport, DropDeadChannels
from lipcompile.passes.zero_columns import (
    ColumnPlan,
    ZeroColumns,
    plan_columns,
    weight_refusal,
)
from lipcompile.placement import Threshold
from lipcompile.provenance import make_provenance, weight_keys
from lipcompile.text import count, percent
from lipcompile.thresholds import check_zero_rate
from lipcompile.weights import layer_columns


@dataclass(frozen=True, slots=True)
class WeightOptions:
    """What the Weight variant does (arXiv 2406.19622).

    Attributes:
        zero_rate: Share of suppressed elements from which on a column is zeroed, in (0, 1].
        compact: Whether channels that nothing reads any more are removed.
    """

    zero_rate: float = 1.0
    compact: bool = False

    def __post_init__(self) -> None:
        check_zero_rate(self.zero_rate)


@dataclass(frozen=True, slots=True)
class Zeroing:
    """A model with zeroed columns.

    Attributes:
        proto: The rendered `onnx.ModelProto`.
        thresholds: The sites and their c.
        plans: The layers that were looked at, and their columns.
        refusals: Selected layers that were left alone, with the reason.
        compaction: What was removed, and what could not be; None where it was not asked for.
        uncompacted: The rendered model before channels were removed, which computes the same;
            None where none were.
    """

    proto: Any
    thresholds: tuple[Threshold, ...]
    plans: tuple[ColumnPlan, ...]
    refusals: tuple[Refusal, ...]
    compaction: CompactionReport | None
    uncompacted: Any = None


def lacks_counts(thresholds: Sequence[Threshold], table: CalibrationTable) -> bool:
    """Whether the table lacks counts for one of these thresholds."""
    held = {row.key for row in table.counts}
    return any(
        (threshold.site.tensor, columns.data_axis, threshold.c) not in held
        for threshold in thresholds
        for layer in threshold.site.layers
        if not isinstance(columns := layer_columns(layer), str)
    )


def zero(
    loaded: LoadedModel,
    thresholds: Sequence[Threshold],
    options: WeightOptions,
    table: CalibrationTable,
    c_r: LayerCr,
) -> Zeroing:
    """Zeroes the columns, and drops what is dead then; edits `loaded.graph_ir`.

    Raises:
        SelectionError: No column qualifies.
        TableError: The table lacks a count.
    """
    plans, refusals = _plans(thresholds, table, options.zero_rate)
    if not any(plan.columns for plan in plans):
        raise _nothing(plans, refusals, options.zero_rate)
    ZeroColumns(plans)(loaded.graph_ir)
    uncompacted, report = None, None
    if options.compact:
        uncompacted = model_io.render(loaded.proto, loaded.graph_ir)
        report = DropDeadChannels()(loaded.graph_ir)
    dropped = report.dropped if report is not None else None
    keys = weight_keys(plans, thresholds, options.zero_rate, dropped)
    metadata = make_provenance(loaded, table, c_r, keys)
    proto = model_io.render(loaded.proto, loaded.graph_ir, metadata)
    return Zeroing(
        proto,
        tuple(thresholds),
        plans,
        refusals,
        report,
        uncompacted if dropped else None,
    )


def _plans(
    thresholds: Sequence[Threshold], table: CalibrationTable, zero_rate: float
) -> tuple[tuple[ColumnPlan, ...], tuple[Refusal, ...]]:
    plans: list[ColumnPlan] = []
    refusals: list[Refusal] = []
    for threshold in thresholds:
        for layer in threshold.site.layers:
            columns = layer_columns(layer)
            if isinstance(columns, str):
                refusals.append(weight_refusal(layer, columns))
                continue
            counts = table.counts_at(threshold.site.tensor, columns.data_axis, threshold.c)
            verdict = plan_columns(layer, counts, zero_rate)
            if isinstance(verdict, Refusal):
                refusals.append(verdict)
            else:
                plans.append(verdict)
    return tuple(plans), tuple(refusals)


def _nothing(
    plans: Sequence[ColumnPlan], refusals: Sequence[Refusal], zero_rate: float
) -> SelectionError:
    if not plans and all(refusal.code == "all-suppressed" for refusal in refusals):
        return SelectionError(
            f"every input of {count(refusals, 'layer')} is suppressed {percent(zero_rate)} of "
            "the time, so that zeroing would leave nothing: lower --cr, raise --zero-rate, or "
            "calibrate on other data"
        )
    seen = sum(plan.count for plan in plans)
    left = f" ({len(refusals)} layers were left alone)" if refusals else ""
    return SelectionError(
        f"none of {seen} weight columns has {percent(zero_rate)} of its inputs suppressed"
        f"{left}, so there is nothing to zero or to compact: raise --cr, or lower --zero-rate"
    )
