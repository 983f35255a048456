"""Variant "forged": from maxima to thresholds, plans, and the rewritten model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lipcompile import model_io
from lipcompile.calibration.table import CalibrationTable
from lipcompile.errors import DataError
from lipcompile.forged import ForgedFunction, Target
from lipcompile.layer_cr import LayerCr
from lipcompile.model_io import LoadedModel
from lipcompile.passes.insert_forged import InsertForged
from lipcompile.placement import SitePlan, Threshold, plan_sites
from lipcompile.provenance import forged_keys, make_provenance
from lipcompile.sites import Selection, Site


def thresholds_of(
    selection: Selection, table: CalibrationTable, c_r: LayerCr, form: ForgedFunction
) -> tuple[Threshold, ...]:
    """c = c_r * absmax of every site; a site is divided where its layers differ in c_r.

    Raises:
        DataError: A maximum is zero, or c vanishes in the type that the form is computed in.
        SelectionError, OptionError: `c_r` does not fit the layers.
    """
    ratios = c_r.assign(selection)
    maxima = {row.tensor: row.absmax for row in table.sites}
    thresholds = []
    for site in (part for whole in selection.sites for part in _divided(whole, ratios)):
        absmax, ratio = maxima[site.tensor], ratios[site.layers[0].name]
        if absmax == 0.0:
            raise _dead(site, table)
        try:
            c = form.threshold(ratio * absmax, site.dtype)
        except DataError as error:
            raise DataError(f"{site.layers[0].label}: {error}") from error
        thresholds.append(Threshold(site, absmax, ratio, c))
    return tuple(thresholds)


def _divided(site: Site, ratios: Mapping[str, float]) -> Iterable[Site]:
    for ratio in dict.fromkeys(ratios[layer.name] for layer in site.layers):
        same = tuple(layer for layer in site.layers if ratios[layer.name] == ratio)
        yield replace(site, layers=same)


def _dead(site: Site, table: CalibrationTable) -> DataError:
    layer = site.layers[0]
    return DataError(
        f"{layer.label}: calibration maximum is 0.0 over {table.data.samples} samples, "
        f"so the threshold would be 0; the input '{site.tensor}' may be dead: pass --exclude "
        f"'{re.escape(layer.name)}', or calibrate on other data"
    )


@dataclass(frozen=True, slots=True)
class Forging:
    """A forged model.

    Attributes:
        proto: The rendered `onnx.ModelProto`.
        plans: What was done at each site.
    """

    proto: Any
    plans: tuple[SitePlan, ...]


def forge(
    loaded: LoadedModel,
    thresholds: tuple[Threshold, ...],
    form: ForgedFunction,
    target: Target,
    table: CalibrationTable,
    c_r: LayerCr,
) -> Forging:
    """Puts `form` in front of the layers of `thresholds`; edits `loaded.graph_ir`."""
    plans = plan_sites(thresholds, form, loaded.opset, target)
    forged = InsertForged(form, plans)(loaded.graph_ir)
    metadata = make_provenance(loaded, table, c_r, forged_keys(loaded, form, forged))
    proto = model_io.render(loaded.proto, loaded.graph_ir, metadata)
    return Forging(proto, plans)
