"""What an ensemble should give, computed beside it: every view in NumPy, run by itself.

The wrapped model is compared with that before it is written, and by `verify`, in two steps:
its views with their definition, and its scores with the mean of what the model inside gives
for these very views. In one step, the last bit of a zoomed pixel could make a model jump.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from lipcompile import model_io, runtime
from lipcompile.calibration.scan import Probe, ScanOptions, prepare_scan
from lipcompile.ensembles.plan import Ensemble
from lipcompile.ensembles.wrapping import wrap
from lipcompile.errors import CheckFailed, DataError, InputError, ModelError, RunFailure
from lipcompile.model_io import LoadedModel
from lipcompile.ops import MARK
from lipcompile.passes.wrap_ensemble import view_name
from lipcompile.runtime import RuntimeOptions, Session

# Shares of the largest number. A mean of a few, and a zoom of a few dozen, are sums in the
# type itself; views without a zoom are copies.
_ROUNDING = {"float64": 1e-6, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
_SAMPLES = 4
_RANDOM = f"random:{_SAMPLES}"
_TAP = f"{MARK}.verify"


@dataclass(frozen=True, slots=True)
class Apart:
    """How far a part of a wrapped model lies from its definition.

    Attributes:
        what: The part.
        difference: The largest, over the largest number expected.
        allowed: What rounding may do.
    """

    what: str
    difference: float
    allowed: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.allowed

    def __str__(self) -> str:
        return f"{self.what} off by {self.difference:.1e} of the largest"


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A model inside of an ensemble.

    Attributes:
        proto: The rendered `onnx.ModelProto`.
        ensemble: What stands around it.
    """

    proto: Any
    ensemble: Ensemble


def wrap_checked(
    source: LoadedModel,
    proto: Any,
    ensembles: Sequence[Ensemble],
    probes: Sequence[Probe],
    options: RuntimeOptions,
) -> Wrapped:
    """`proto` inside of the first ensemble that gives the mean over views.

    Args:
        source: What was loaded.
        proto: The model to wrap: its own, or that as it was hardened.
        ensembles: The cheapest first.
        probes: Samples; without any, random ones are drawn where the input's size is known,
            and else the first ensemble is taken untried.
        options: Providers and threads.

    Raises:
        CheckFailed: None does.
        ModelError: The graph cannot be run once for each view; or not on all of them at once,
            where that was asked for.
    """
    reasons = []
    feeds = _feeds(source, probes)
    for ensemble in ensembles:
        if not feeds and ensemble is not ensembles[-1] and not ensemble.batch_is_free:
            continue  # a fixed batch is doubled only where that was tried
        wrapped = wrap(source, proto, ensemble)
        try:
            reference = Reference.open(source, proto, wrapped, ensemble, options)
            broken = [a for feed in feeds for a in reference.compare(feed) if not a.holds]
        except (InputError, RunFailure) as error:
            reasons.append(f"{ensemble.way}: {error}")
            continue
        if not broken:
            return Wrapped(wrapped, ensemble)
        reasons.append(f"{ensemble.way}: {broken[0]}")
    if {ensemble.way for ensemble in ensembles} == {"batch"}:
        raise ModelError(
            f"'{source.name}' does not run on all views in one batch ({reasons[0]}): leave "
            "--ensemble-by batch out, and it runs once for each view"
        )
    raise CheckFailed(
        f"an ensemble around '{source.name}' does not give the mean over its views "
        f"({'; '.join(reasons)}): nothing was written; please report this with the model"
    )


def _feeds(source: LoadedModel, probes: Sequence[Probe]) -> list[dict[str, np.ndarray]]:
    """A few samples in one batch and, where the batch is dynamic, the first of them alone."""
    if not probes and any(isinstance(n, str) for n in _inner_shape(source)):
        return []  # nothing tells the size of random images
    try:
        feeds = dict(probes[0].feeds) if probes else _random(source)
    except DataError:
        return []
    if any(spec.fixed_batch is not None for spec in source.inputs):
        return [feeds]
    return [{name: array[:n] for name, array in feeds.items()} for n in (_SAMPLES, 1)]


def _inner_shape(source: LoadedModel) -> Iterator[int | str]:
    """The lengths of all axes of all inputs, but for the batch."""
    for spec in source.inputs:
        yield from (spec.shape or ("",))[1:]


def _random(source: LoadedModel) -> dict[str, np.ndarray]:
    reading = prepare_scan(source, (), _RANDOM, ScanOptions(), RuntimeOptions())
    batch = next(iter(reading.batcher.group(reading.source)))
    return dict(reading.batcher.feeds(batch))


@dataclass(frozen=True, slots=True)
class Reference:
    """A wrapped model, and the model inside to compare it with.

    Attributes:
        ensemble: What stands around it.
        inner: The model inside, with the tensor that is averaged as an output.
        tap: Name of that output.
        outer: The wrapped model, with its views as outputs.
    """

    ensemble: Ensemble
    inner: Session
    tap: str
    outer: Session

    @classmethod
    def open(
        cls,
        source: LoadedModel,
        inner: Any,
        outer: Any,
        ensemble: Ensemble,
        options: RuntimeOptions,
    ) -> Reference:
        """Opens both models on the CPU, where sums are not rounded to fewer bits.

        Raises:
            ModelError: One does not load.
        """
        on_cpu = RuntimeOptions(threads=options.threads, verbose=options.verbose)
        pixels = str(ensemble.image.spec.dtype)
        at = [] if ensemble.at == ensemble.scores.name else [ensemble.at]
        inside = model_io.with_extra_outputs(inner, list(_taps(at, ensemble.dtype)))
        views = [view_name(index) for index in range(1, len(ensemble.views))]
        outside = model_io.with_extra_outputs(outer, list(_taps(views, pixels)))
        return cls(
            ensemble,
            runtime.open_session(inside, on_cpu, source.base_dir),
            f"{_TAP}/{ensemble.at}" if at else ensemble.at,
            runtime.open_session(outside, on_cpu, source.base_dir),
        )

    def compare(self, feeds: Mapping[str, np.ndarray]) -> tuple[Apart, ...]:
        """Every view against its definition, and the scores against the mean over views.

        Raises:
            RunFailure: One of the two models does not run.
        """
        plan = self.ensemble
        image = plan.image.spec
        views = [f"{_TAP}/{view_name(index)}" for index in range(1, len(plan.views))]
        found = self.outer.run([plan.scores.name, *views], feeds)
        seen = [feeds[image.name], *(found[name] for name in views)]
        pixels = plan.image.unfolded(feeds[image.name])
        defined = [view(pixels, plan.image.axes) for view in plan.views]
        zoomed = [view.zoom != 1.0 for view in plan.views]
        apart = [
            _apart(f"view {i}", x, y, str(image.dtype) if is_zoomed else None)
            for i, (x, y, is_zoomed) in enumerate(zip(seen, defined, zoomed, strict=True))
        ]
        mean = self._mean([{**feeds, image.name: x} for x in seen])
        scores = found[plan.scores.name]
        return (*apart, _apart("scores", scores, mean, plan.dtype))

    def _mean(self, views: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        """float64: what the ensemble should give for these views."""
        plan = self.ensemble
        total: Any = 0.0
        for feeds in views:
            scores = np.asarray(self.inner.run([self.tap], feeds)[self.tap], np.float64)
            total = total + (np.exp(_log_softmax(scores)) if plan.takes_logarithm else scores)
        mean: np.ndarray = total / len(views)
        if plan.takes_logarithm:
            mean = np.log(np.maximum(mean, plan.least_probability))
        elif plan.ends_in is not None:
            mean = _log_softmax(mean)
            mean = np.exp(mean) if plan.ends_in == "Softmax" else mean
        return mean


def _taps(names: Sequence[str], dtype: str) -> Iterator[ir.Node]:
    """Operators that make outputs of tensors."""
    kind = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
    for name in names:
        value = ir.Value(name=f"{_TAP}/{name}", type=kind)
        yield ir.node("Identity", [ir.Value(name=name)], outputs=[value])


def _apart(what: str, got: np.ndarray, expected: np.ndarray, dtype: str | None) -> Apart:
    """`dtype` is that of sums; None for copies."""
    allowed = 0.0 if dtype is None else _ROUNDING.get(dtype, 1e-5)
    if got.size != expected.size:
        return Apart(what, float("inf"), allowed)
    wide, wanted = got.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    largest = max(float(np.abs(wanted).max()), 1e-30)
    return Apart(what, float(np.abs(wide - wanted).max()) / largest, allowed)


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    """Over all scores of an image."""
    rows = scores.reshape(len(scores), -1)
    rows = rows - rows.max(axis=1, keepdims=True)
    normal: np.ndarray = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return normal.reshape(scores.shape)
