"""What a hardened model says of itself: `lipcompile.*` keys in its `metadata_props`.

lipcompile.version   version of LipCompile
lipcompile.source    digest of the model before hardening
lipcompile.file      SHA-256 of that model's file, where it was one
lipcompile.table     digest of the calibration table
lipcompile.data      number and digest of the calibration samples, and whether they are random
lipcompile.variant   "forged" or "weight"
lipcompile.form      "smooth", "hard" or "soft"; lipcompile.a, lipcompile.b where the form has
                     them; absent for variant "weight"
lipcompile.c_r       relative threshold of layers without one of their own
lipcompile.c_r_by_layer  JSON: layer patterns and their c_r, where there were any
lipcompile.sites     JSON: per site its layers, tensors, absmax, c, encoding, and its edits
lipcompile.zero_rate, lipcompile.columns, lipcompile.dropped   variant "weight": the rate, and
                     as JSON the zeroed columns per layer and the channels that were removed
lipcompile.inlined   local functions that were inlined, where there were any
lipcompile.lipschitz JSON: how the weights were rescaled (`lipcompile.rescaling`), if they were
lipcompile.ensemble  JSON: the ensemble around the model (`lipcompile.ensembles`), if any
lipcompile.abstain   JSON: the abstain head (`lipcompile.abstaining`), if any
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lipcompile.calibration.table import CalibrationTable
from lipcompile.forged import ForgedFunction
from lipcompile.layer_cr import LayerCr
from lipcompile.model_io import LoadedModel
from lipcompile.ops import MARK
from lipcompile.passes.drop_dead_channels import DroppedChannels
from lipcompile.passes.insert_forged import Forged
from lipcompile.passes.zero_columns import ColumnPlan
from lipcompile.placement import Threshold
from lipcompile.records import (
    ABSTAIN,
    COLUMNS,
    DROPPED,
    ENSEMBLE,
    INLINED,
    LIPSCHITZ,
    SITES,
    SOURCE,
    SOURCE_FILE,
    read_sites,
)
from lipcompile.version import __version__

# What follows from the original and the records; the other keys nothing else tells.
DERIVED = frozenset(
    {SITES, COLUMNS, DROPPED, INLINED, ENSEMBLE, LIPSCHITZ, ABSTAIN}
    | {f"{MARK}.{name}" for name in ("variant", "form", "a", "b", "zero_rate")}
)
KEYS = DERIVED | {
    *(SOURCE, SOURCE_FILE),
    *(f"{MARK}.{name}" for name in ("version", "table", "data", "c_r", "c_r_by_layer")),
}


def make_provenance(
    source: LoadedModel, table: CalibrationTable, c_r: LayerCr, variant: Mapping[str, str]
) -> dict[str, str | None]:
    """The metadata to add to `source`; None drops a key of an earlier form.

    Holds no time and no path: the same inputs give the same bytes.

    Args:
        source: The model that was hardened.
        table: Where its maxima came from.
        c_r: Relative thresholds.
        variant: What only this variant says: `forged_keys` or `weight_keys`.
    """
    before = source.metadata
    data = {
        "kind": "random" if table.data.kind == "random" else "given",
        "samples": table.data.samples,
        "digest": table.data.digest,
    }
    metadata: dict[str, str | None] = {
        **source_keys(source),
        f"{MARK}.table": table.digest,
        f"{MARK}.data": json.dumps(data),
        f"{MARK}.c_r": repr(c_r.default),
        **variant,
    }
    if c_r.patterns:
        metadata[f"{MARK}.c_r_by_layer"] = json.dumps(dict(c_r.patterns))
    # Parameters of a form that was used before belong to its own records, not to this one.
    metadata |= {k: None for k in before if k.startswith(f"{MARK}.") and k not in metadata}
    return metadata


def source_keys(source: LoadedModel) -> dict[str, str]:
    """What every model that LipCompile makes says of the one that it was made of."""
    before = source.metadata
    keys = {f"{MARK}.version": __version__, SOURCE: before.get(SOURCE, source.digest)}
    file = before.get(SOURCE_FILE) if SOURCE in before else source.file_digest
    if file is not None:
        keys[SOURCE_FILE] = file
    inlined = json.dumps(list(source.inlined)) if source.inlined else before.get(INLINED)
    if inlined is not None:
        keys[INLINED] = inlined
    return keys


def added_keys(
    source: LoadedModel, proto: Any, metadata: Mapping[str, str]
) -> dict[str, str | None]:
    """`metadata`, and the keys of the source where `proto` does not have them yet."""
    if any(prop.key == SOURCE for prop in proto.metadata_props):
        return {**metadata}
    return {**source_keys(source), **metadata}


def forged_keys(
    source: LoadedModel, form: ForgedFunction, forged: Iterable[Forged]
) -> dict[str, str]:
    """What a forged model says of its form and sites, those of an earlier run included."""
    records = read_sites(source.metadata)
    runs = [record["run"] for record in records if isinstance(record.get("run"), int)]
    records += [site_record(item, form, 1 + max(runs, default=0)) for item in forged]
    return form_keys(form, records)


def form_keys(form: ForgedFunction, records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The keys of variant "forged" for the records of every run, of which `form` was last."""
    parameters = {f"{MARK}.{k}": repr(v) for k, v in form.parameters().items()}
    named = {f"{MARK}.variant": "forged", f"{MARK}.form": form.name}
    return {**named, SITES: json.dumps(records), **parameters}


def weight_keys(
    plans: Iterable[ColumnPlan],
    thresholds: Iterable[Threshold],
    zero_rate: float,
    dropped: Iterable[DroppedChannels] | None,
) -> dict[str, str]:
    """What a model with zeroed columns says of them; `dropped` is None where none may go."""
    by_layer = {layer.name: t for t in thresholds for layer in t.site.layers}
    columns = [
        {
            "layer": plan.layer.name,
            "tensor": plan.tensor,
            "c_r": by_layer[plan.layer.name].c_r,
            "absmax": by_layer[plan.layer.name].absmax,
            "c": plan.c,
            "columns": list(plan.columns),
            "count": plan.count,
        }
        for plan in plans
        if plan.columns
    ]
    keys = {
        f"{MARK}.variant": "weight",
        f"{MARK}.zero_rate": repr(zero_rate),
        COLUMNS: json.dumps(columns),
    }
    if dropped is not None:
        keys[DROPPED] = json.dumps(
            [
                {"layer": item.layer, "channels": list(item.channels), "count": item.count}
                for item in dropped
            ]
        )
    return keys


def site_record(item: Forged, form: ForgedFunction, run: int) -> dict[str, Any]:
    """What is said of one site; `run` counts from 1."""
    plan = item.plan
    record = {
        "run": run,
        "layers": [layer.name for layer in plan.site.layers],
        "tensor": plan.site.tensor,
        "at": plan.anchor.name,
        "forged": item.tensor,
        "form": form.name,
        **form.parameters(),
        "c_r": plan.threshold.c_r,
        "absmax": plan.threshold.absmax,
        "c": plan.c,
        "target": plan.target,
        "way": plan.encoding.way,
        "encoding": plan.encoding.label,
    }
    return record | ({"changes": list(item.changes)} if item.changes else {})
