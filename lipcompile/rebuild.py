"""Builds a hardened model once more, from its original and from what it says of itself."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lipcompile import model_io
from lipcompile.errors import ModelError
from lipcompile.forged import ForgedFunction, make_form
from lipcompile.forged.targets import check_target
from lipcompile.model_io import LoadedModel
from lipcompile.passes.drop_dead_channels import DropDeadChannels
from lipcompile.passes.insert_forged import InsertForged
from lipcompile.passes.zero_columns import ColumnPlan, ZeroColumns
from lipcompile.placement import Threshold, plan_sites
from lipcompile.records import COLUMNS, DROPPED, SITES, read_records, read_sites
from lipcompile.sites import Selector, Site, find_sites


def rebuild(original: LoadedModel, metadata: Mapping[str, str]) -> Any:
    """The hardened model that `metadata` describes, of either variant.

    Args and errors are those of `rebuild_forged`.
    """
    if COLUMNS in metadata:
        return _rebuild_weight(original, metadata)
    return rebuild_forged(original, metadata)


def _rebuild_weight(original: LoadedModel, metadata: Mapping[str, str]) -> Any:
    found = find_sites(original.graph_ir, Selector("all"))
    layers = {layer.name: layer for layer in found.layers}
    try:
        plans = tuple(
            ColumnPlan(
                layers[record["layer"]],
                tuple(map(int, record["columns"])),
                int(record["count"]),
                record["tensor"],
                float(record["c"]),
            )
            for record in read_records(metadata, COLUMNS)
        )
        ZeroColumns(plans)(original.graph_ir)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _misfit(error) from error
    if DROPPED in metadata:
        DropDeadChannels()(original.graph_ir)
    return model_io.render(original.proto, original.graph_ir, dict(metadata))


def rebuild_forged(
    original: LoadedModel,
    metadata: Mapping[str, str],
    change: Callable[[float], float] = lambda c: c,
) -> Any:
    """The forged model that `metadata` describes, as an `onnx.ModelProto`.

    Args:
        original: The model before hardening, freshly loaded; its graph is edited.
        metadata: Of the hardened model.
        change: Applied to every threshold once, for models that differ in nothing else.

    Raises:
        ModelError: The provenance does not fit the original.
        InputError: It holds an illegal value.
    """
    records = read_sites(metadata)
    change = functools.cache(change)  # sites that share a form have one threshold
    try:
        for batch in _batches(records):
            form = _form(batch[0])
            sites = _sites(original, batch)
            thresholds = tuple(
                _threshold(site, record, form, change)
                for site, record in zip(sites, batch, strict=True)
            )
            target = check_target(batch[0].get("target", "portable"))
            plans = plan_sites(thresholds, form, original.opset, target)
            results = InsertForged(form, plans)(original.graph_ir)
            for record, result in zip(batch, results, strict=True):
                record |= {"c": result.plan.c, "forged": result.tensor}
                record |= {"at": result.plan.anchor.name, "way": result.plan.encoding.way}
    except (KeyError, TypeError, ValueError) as error:
        raise _misfit(error) from error
    changed = {**metadata, SITES: json.dumps(records)}
    return model_io.render(original.proto, original.graph_ir, changed)


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


def _form(record: Mapping[str, Any]) -> ForgedFunction:
    return make_form(record["form"], **{k: record[k] for k in ("a", "b") if k in record})


def _sites(original: LoadedModel, records: list[dict[str, Any]]) -> list[Site]:
    found = find_sites(original.graph_ir, Selector("all")).sites
    by_tensor = {site.tensor: site for site in found}
    sites = []
    for record in records:
        site, wanted = by_tensor[record["tensor"]], set(record["layers"])
        layers = tuple(layer for layer in site.layers if layer.name in wanted)
        if {layer.name for layer in layers} != wanted:
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
