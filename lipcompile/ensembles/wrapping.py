"""Puts an ensemble around a model, and takes it off.

An ensemble is always the outermost layer: whatever else is done to a model is done to the one
inside. So hardening before and after it give the same file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lipcompile import model_io
from lipcompile.ensembles.plan import Ensemble, ensemble_of
from lipcompile.ensembles.views import View, parse_views
from lipcompile.errors import InputError, ModelError
from lipcompile.model_io import LoadedModel
from lipcompile.passes.unwrap_ensemble import UnwrapEnsemble
from lipcompile.passes.wrap_ensemble import WrapEnsemble
from lipcompile.provenance import source_keys
from lipcompile.records import ENSEMBLE, SOURCE, read_ensemble
from lipcompile.signature import TensorSpec


def wrap(source: LoadedModel, proto: Any, ensemble: Ensemble) -> Any:
    """`proto` inside of `ensemble`, as an `onnx.ModelProto`.

    Args:
        source: What was loaded, for the provenance.
        proto: The model to wrap: its own, or that as it was hardened.
        ensemble: From `plan_ensembles(source, ...)`.

    Raises:
        ModelError: The graph cannot be run once for each view.
    """
    metadata: dict[str, str | None] = {ENSEMBLE: json.dumps(ensemble.to_json())}
    if not any(prop.key == SOURCE for prop in proto.metadata_props):
        metadata = {**source_keys(source), **metadata}
    wrapped = model_io.edit(proto, source.name, WrapEnsemble(ensemble), metadata)
    if ensemble.way == "batch":
        symbol, inside = _symbols(ensemble.image.spec, ensemble.views)
        model_io.rename_dimension(wrapped, symbol, inside)
    return wrapped


def unwrap(loaded: LoadedModel) -> tuple[LoadedModel, Ensemble | None]:
    """The model inside of an ensemble, and the ensemble; `loaded` itself and None where there
    is none.

    Raises:
        ModelError: The graph does not fit its provenance.
    """
    record = read_ensemble(loaded.metadata)
    if record is None:
        return loaded, None
    proto = model_io.edit(loaded.proto, loaded.name, UnwrapEnsemble(record), {ENSEMBLE: None})
    try:
        if record["way"] == "batch":
            spec = next(spec for spec in loaded.inputs if spec.name == record["input"])
            symbol, inside = _symbols(spec, parse_views(record["views"]))
            model_io.rename_dimension(proto, inside, symbol)
        inner = model_io.load(proto, loaded.base_dir)
        ensemble = ensemble_of(inner, record)
    except (InputError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f"metadata '{ENSEMBLE}' of '{loaded.name}' does not fit the model ({error}): "
            "harden the original again"
        ) from error
    return replace(inner, kind=loaded.kind, name=loaded.name), ensemble


def _symbols(spec: TensorSpec, views: Sequence[View]) -> tuple[str, str]:
    """How value_info names the batch outside and inside of the ensemble, where it does."""
    symbol = str(spec.shape[0]) if spec.shape else ""
    return symbol, f"{len(views)}*{symbol}"
