"""Builds a hardened model once more, from its original and from what it says of itself."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lipcompile import model_io
from lipcompile.abstaining.head import Head, plan_abstention
from lipcompile.abstaining.wrapping import put_on
from lipcompile.ensembles.plan import ensemble_of
from lipcompile.ensembles.wrapping import wrap
from lipcompile.errors import InputError, ModelError
from lipcompile.forged import ForgedFunction, make_form
from lipcompile.forged.targets import check_target
from lipcompile.linear_layers import LinearLayer
from lipcompile.model_io import LoadedModel
from lipcompile.ops import MARK
from lipcompile.passes.drop_dead_channels import DropDeadChannels
from lipcompile.passes.insert_forged import InsertForged
from lipcompile.passes.zero_columns import ColumnPlan, ZeroColumns
from lipcompile.placement import Threshold, plan_sites
from lipcompile.provenance import DERIVED, KEYS, form_keys, site_record, weight_keys
from lipcompile.records import (
    ABSTAIN,
    COLUMNS,
    DROPPED,
    INLINED,
    LIPSCHITZ,
    read_ensemble,
    read_record,
    read_records,
    read_sites,
)
from lipcompile.rescaling.plan import Rescaling
from lipcompile.rescaling.rescaling import apply
from lipcompile.sites import Selector, Site, find_sites
from lipcompile.thresholds import check_zero_rate
from lipcompile.weights import layer_columns

_EVERY = Selector("all")
# What records of any shape can raise in code that expects them to be right.
MISFITS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def rebuild(
    original: LoadedModel,
    metadata: Mapping[str, str],
    change: Callable[[float], float] = lambda c: c,
) -> Any:
    """The model that `metadata` describes, of any variant, with all that stands around it.

    Args and errors are those of `rebuild_forged`.
    """
    try:
        record = read_ensemble(metadata)
        around = None if record is None else ensemble_of(original, record)
        scaled, head = (read_record(metadata, key) for key in (LIPSCHITZ, ABSTAIN))
        rescaling = None if scaled is None else Rescaling.from_json(scaled)
        abstaining = None if head is None else Head.from_json(head)
    except (InputError, *MISFITS) as error:
        raise _misfit(error) from error
    if COLUMNS in metadata:
        inside = _rebuild_weight(original, metadata)
    else:
        inside = rebuild_forged(original, metadata, change)
    inside = _bounded(original, inside, rescaling, abstaining)
    return inside if around is None else wrap(original, inside, around)


def _bounded(
    original: LoadedModel, proto: Any, rescaling: Rescaling | None, head: Head | None
) -> Any:
    """`proto` rescaled, and with its abstain head, whose bounds are computed anew."""
    try:
        if rescaling is not None:
            proto = apply(original, proto, rescaling)
        if head is not None:
            inside = model_io.reload(original, proto)
            proto = put_on(original, proto, plan_abstention(inside, head.options, head.pixels))
    except MISFITS as error:
        raise _misfit(error) from error
    return proto


def _rebuild_weight(original: LoadedModel, metadata: Mapping[str, str]) -> Any:
    sites = {site.tensor: site for site in find_sites(original.graph_ir, _EVERY).sites}
    records = read_records(metadata, COLUMNS)
    try:
        thresholds = [_layer_threshold(sites, record) for record in records]
        plans = tuple(map(_column_plan, thresholds, records))
        zero_rate = check_zero_rate(float(metadata[f"{MARK}.zero_rate"]))
        ZeroColumns(plans)(original.graph_ir)
    except MISFITS as error:
        raise _misfit(error) from error
    report = DropDeadChannels()(original.graph_ir) if DROPPED in metadata else None
    dropped = report.dropped if report is not None else None
    return _render(original, metadata, weight_keys(plans, thresholds, zero_rate, dropped))


def _layer_threshold(sites: Mapping[str, Site], record: Mapping[str, Any]) -> Threshold:
    site = sites[record["tensor"]]
    layers = tuple(layer for layer in site.layers if layer.name == record["layer"])
    if not layers:
        raise ValueError(f"'{site.tensor}' does not feed a layer '{record['layer']}'")
    numbers = (float(record[key]) for key in ("absmax", "c_r", "c"))
    return Threshold(replace(site, layers=layers), *numbers)


def _column_plan(threshold: Threshold, record: Mapping[str, Any]) -> ColumnPlan:
    (layer,) = threshold.site.layers
    columns, count = tuple(record["columns"]), _count(layer)
    if record["count"] != count:
        raise ValueError(f"'{layer.name}' has {count} columns, not {record['count']}")
    if not all(type(j) is int and 0 <= j < count for j in columns):
        raise ValueError(f"'{layer.name}' has columns 0 to {count - 1}, and others are named")
    if list(columns) != sorted(set(columns)) or not columns:
        raise ValueError(f"the columns of '{layer.name}' do not rise, or there are none")
    return ColumnPlan(layer, columns, count, threshold.site.tensor, threshold.c)


def _count(layer: LinearLayer) -> int:
    lie = layer_columns(layer)
    if isinstance(lie, str):
        raise ValueError(f"the weight of '{layer.name}' {lie}")
    return lie.count


def rebuild_forged(
    original: LoadedModel,
    metadata: Mapping[str, str],
    change: Callable[[float], float] = lambda c: c,
) -> Any:
    """The forged model that `metadata` describes, as an `onnx.ModelProto`; no ensemble.

    What it says of itself is made anew as well, but for what nothing tells: version, digests,
    calibration data and the relative thresholds.

    Args:
        original: The model before hardening, freshly loaded; its graph is edited.
        metadata: Of the hardened model.
        change: Applied to every threshold once, for models that differ in nothing else.

    Raises:
        ModelError: The provenance does not fit the original.
        InputError: It holds an illegal value.
    """
    change = functools.cache(change)  # sites that share a form have one threshold
    fresh: list[dict[str, Any]] = []
    keys: dict[str, str] = {}
    try:
        for run, batch in enumerate(_batches(read_sites(metadata)), start=1):
            form = form_of(batch[0])
            sites = _sites(original, batch)
            thresholds = tuple(
                _threshold(site, record, form, change)
                for site, record in zip(sites, batch, strict=True)
            )
            target = check_target(batch[0].get("target", "portable"))
            plans = plan_sites(thresholds, form, original.opset, target)
            results = InsertForged(form, plans)(original.graph_ir)
            fresh += [site_record(result, form, run) for result in results]
            keys = form_keys(form, fresh)
    except MISFITS as error:
        raise _misfit(error) from error
    return _render(original, metadata, keys)


def _render(original: LoadedModel, metadata: Mapping[str, str], keys: dict[str, str]) -> Any:
    """What hardening says anew replaces what is said, in its place; unknown keys go."""
    if original.inlined:
        keys[INLINED] = json.dumps(list(original.inlined))
    told = {k: v for k, v in metadata.items() if k in keys or k in KEYS - DERIVED}
    return model_io.render(original.proto, original.graph_ir, told | keys)


def _misfit(error: Exception) -> ModelError:
    return ModelError(
        f"the provenance does not fit the original ({type(error).__name__}: {error}): name "
        "the model that was hardened"
    )


def _batches(records: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Records that were forged in one run, which shares form, parameters and target."""
    batches: list[list[dict[str, Any]]] = []
    for record in records:
        if batches and _run(batches[-1][0]) == _run(record):
            batches[-1].append(record)
        else:
            batches.append([record])
    return batches


def _run(record: Mapping[str, Any]) -> tuple[object, ...]:
    return tuple(record.get(key) for key in ("run", "form", "a", "b", "target"))


def form_of(record: Mapping[str, Any]) -> ForgedFunction:
    """The forged function that a site record names."""
    return make_form(record["form"], **{k: record[k] for k in ("a", "b") if k in record})


def _sites(original: LoadedModel, records: list[dict[str, Any]]) -> list[Site]:
    by_tensor = {site.tensor: site for site in find_sites(original.graph_ir, _EVERY).sites}
    sites = []
    for record in records:
        site, wanted = by_tensor[record["tensor"]], set(record["layers"])
        layers = tuple(layer for layer in site.layers if layer.name in wanted)
        if {layer.name for layer in layers} != wanted or not wanted:
            raise ValueError(f"'{record['tensor']}' does not feed all of {sorted(wanted)}")
        sites.append(replace(site, layers=layers))
    return sites


def _threshold(
    site: Site,
    record: Mapping[str, Any],
    form: ForgedFunction,
    change: Callable[[float], float],
) -> Threshold:
    c = form.threshold(change(float(record["c"])), site.dtype)
    return Threshold(site, float(record["absmax"]), float(record["c_r"]), c)
