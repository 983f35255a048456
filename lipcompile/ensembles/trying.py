"""Wraps a model in the first way that gives the mean over views, as running it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes  # noqa: F401  (makes NumPy know "bfloat16")
import numpy as np

from lipcompile.calibration.probes import Probe
from lipcompile.ensembles.options import Way
from lipcompile.ensembles.plan import Ensemble
from lipcompile.ensembles.reference import Inner, Reference
from lipcompile.ensembles.wrapping import wrap
from lipcompile.errors import CheckFailed, ModelError, RunFailure
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import RuntimeOptions

_SAMPLES, _SIDE = 4, 64


def wrap_checked(
    source: LoadedModel,
    proto: Any,
    ensembles: Sequence[Ensemble],
    probes: Sequence[Probe],
    options: RuntimeOptions,
    asked: Way | None = None,
) -> tuple[Any, Ensemble]:
    """`proto` inside of the first ensemble that gives the mean over views, and that ensemble.

    Args:
        source: What was loaded.
        proto: The model to wrap: its own, or that as it was hardened.
        ensembles: The cheapest first.
        probes: Samples; without any, random ones are drawn, of 64 pixels where the model
            leaves a side open.
            Where nothing can be run, the last ensemble is taken: branches are right anywhere.
        options: Threads.
        asked: The way that the user asked for, if any.

    Raises:
        CheckFailed: None does.
        ModelError: The graph cannot be run once for each view; or not on all of them at once,
            where that was asked for.
    """
    inner = _open_inner(source, proto, ensembles[0], probes, options)
    feeds = _feeds(source, ensembles[0], probes)
    feeds = [feed for feed in feeds if inner is not None and inner.runs(feed)]
    reasons = []
    for ensemble in ensembles:
        if not feeds and ensemble is not ensembles[-1]:
            continue  # one batch is right only where that was seen
        wrapped = wrap(source, proto, ensemble)
        if inner is None:
            return wrapped, ensemble
        try:
            reference = Reference.open(source, inner, wrapped, options)
            broken = [apart for apart in reference.compare(feeds) if not apart.holds]
        except (ModelError, RunFailure) as error:
            reasons.append(f"{ensemble.way}: {error}")
            continue
        if not broken:
            return wrapped, ensemble
        reasons.append(f"{ensemble.way}: {broken[0]}")
    if asked == "batch":
        raise ModelError(
            f"'{source.name}' does not run on all views in one batch ({reasons[0]}): leave "
            "--ensemble-by batch out, and it runs once for each view"
        )
    raise CheckFailed(
        f"an ensemble around '{source.name}' does not give the mean over its views "
        f"({'; '.join(reasons)}): nothing was written; please report this with the model"
    )


def _open_inner(
    source: LoadedModel,
    proto: Any,
    ensemble: Ensemble,
    probes: Sequence[Probe],
    options: RuntimeOptions,
) -> Inner | None:
    """None where the model does not run here at all, such as a bfloat16 model on the CPU."""
    try:
        return Inner.open(source, proto, ensemble, options)
    except ModelError:
        if probes:
            raise
        return None


def _feeds(
    source: LoadedModel, ensemble: Ensemble, probes: Sequence[Probe]
) -> list[dict[str, np.ndarray]]:
    """A few samples in one batch and, where the batch is dynamic, the first of them alone."""
    feeds = dict(probes[0].feeds) if probes else _random(source, ensemble)
    if feeds is None:
        return []
    if any(spec.fixed_batch is not None for spec in source.inputs):
        return [feeds]
    return [
        {name: array[:n] if array.ndim else array for name, array in feeds.items()}
        for n in (_SAMPLES, 1)
    ]


def _random(source: LoadedModel, ensemble: Ensemble) -> dict[str, np.ndarray] | None:
    """Random inputs; None where nothing tells the length of an axis, or its type."""
    generator = np.random.default_rng(0)
    image = ensemble.image
    feeds = {}
    for spec in source.inputs:
        is_image = spec.name == image.spec.name
        sides = image.axes if is_image and image.planes is None else ()
        shape = [
            length if isinstance(length, int) else _length(axis, sides)
            for axis, length in enumerate(spec.shape or ("",))
        ]
        if spec.shape is None or 0 in shape or spec.dtype is None:
            return None
        if "float" in spec.dtype:
            numbers: np.ndarray = generator.standard_normal(shape)
        else:
            numbers = generator.integers(0, 256 if spec.dtype == "uint8" else 2, shape)
        feeds[spec.name] = np.asarray(numbers).astype(spec.dtype)
    return feeds


def _length(axis: int, sides: tuple[int, ...]) -> int:
    """Of a dynamic axis: batches and sides of images; 0 where it is neither."""
    if axis == 0:
        return _SAMPLES
    return _SIDE if axis in sides else 0
