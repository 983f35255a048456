"""Puts an ensemble around a model, and takes it off.

An ensemble is always the outermost layer: whatever else is done to a model is done to the one
inside. So hardening before and after it give the same file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from lipcompile import model_io
from lipcompile.ensembles.plan import Ensemble, ensemble_of
from lipcompile.ensembles.views import View, parse_views
from lipcompile.errors import InputError, ModelError
from lipcompile.graph_walks import nodes_behind
from lipcompile.model_io import LoadedModel
from lipcompile.passes.unwrap_ensemble import UnwrapEnsemble
from lipcompile.passes.wrap_ensemble import WrapEnsemble
from lipcompile.provenance import added_keys
from lipcompile.records import ENSEMBLE, read_ensemble
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
    metadata = added_keys(source, proto, {ENSEMBLE: json.dumps(ensemble.to_json())})
    spec = ensemble.image.spec
    tensors: set[str] = set()

    def rewrite(model: ir.Model) -> None:
        tensors.update(_in_one_batch(model.graph, spec.name, ensemble.at))
        WrapEnsemble(ensemble)(model)

    wrapped = model_io.edit(proto, source.name, rewrite, metadata)
    if ensemble.way == "batch":
        model_io.rename_dimension(wrapped, *_symbols(spec, ensemble.views), tensors)
    return wrapped


def unwrap(loaded: LoadedModel) -> tuple[LoadedModel, Ensemble | None]:
    """The model inside of an ensemble, and the ensemble; `loaded` itself and None where there
    is none.

    Raises:
        ModelError: The graph does not fit its provenance.
    """
    record = read_ensemble(loaded.metadata)
    if record is None:
        _check_plain(loaded)
        return loaded, None
    tensors: set[str] = set()

    def rewrite(model: ir.Model) -> None:
        UnwrapEnsemble(record)(model)
        tensors.update(_in_one_batch(model.graph, record["input"], record["at"]))

    proto = model_io.edit(loaded.proto, loaded.name, rewrite, {ENSEMBLE: None})
    try:
        if record["way"] == "batch":
            (spec,) = (spec for spec in loaded.inputs if spec.name == record["input"])
            symbol, inside = _symbols(spec, parse_views(str(record["views"])))
            model_io.rename_dimension(proto, inside, symbol, tensors)
        inner = model_io.load(proto, loaded.base_dir)
        ensemble = ensemble_of(inner, record)
    except (InputError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f"metadata '{ENSEMBLE}' of '{loaded.name}' does not fit the model ({error}): "
            "harden the original again"
        ) from error
    return replace(inner, kind=loaded.kind, name=loaded.name), ensemble


def _check_plain(loaded: LoadedModel) -> None:
    graph = loaded.graph_ir.graph
    computed = (value for node in graph for value in node.outputs)
    for value in (*graph.inputs, *graph.initializers.values(), *computed):
        if (value.name or "").startswith(f"{ENSEMBLE}/"):
            raise ModelError(
                f"'{loaded.name}' has a tensor '{value.name}' of an ensemble, and its "
                "metadata does not tell of one (a tool dropped it): take the original"
            )


def _in_one_batch(graph: ir.Graph, image: str, scores: str) -> frozenset[str]:
    """The tensors of a model that hold all views, but for the scores: their name goes to the
    mean."""
    behind = {n for v in graph.inputs if v.name == image for n in nodes_behind(graph, v)}
    outputs = [value for node in behind for value in node.outputs]
    after = {n for v in outputs if v.name == scores for n in nodes_behind(graph, v)}
    return frozenset(
        value.name or ""
        for value in outputs
        if value.producer() not in after and value.name != scores
    )


def _symbols(spec: TensorSpec, views: Sequence[View]) -> tuple[str, str]:
    """How value_info names the batch outside and inside of the ensemble, where it does."""
    symbol = str(spec.shape[0]) if spec.shape else ""
    return symbol, f"{len(views)}*{symbol}"
