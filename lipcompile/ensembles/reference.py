"""What an ensemble should give, computed beside it: every view in NumPy, run by itself.

The wrapped model is compared with that before it is written, and by `verify`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from lipcompile import model_io, runtime
from lipcompile.calibration.scan import Probe, ScanOptions, prepare_scan
from lipcompile.ensembles.plan import Ensemble
from lipcompile.ensembles.wrapping import wrap
from lipcompile.errors import CheckFailed, DataError, InputError, RunFailure
from lipcompile.model_io import LoadedModel
from lipcompile.ops import MARK
from lipcompile.runtime import RuntimeOptions, Session

# Of the largest score. Views are exact copies but for a zoom, whose sums ONNX Runtime takes in
# float32; float16 has steps of 2^-11, and a quantised model steps of its own.
_ROUNDING = {"float64": 1e-6, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
_RANDOM = "random:2"
_TAP = f"{MARK}.verify/scores"


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A model inside of an ensemble.

    Attributes:
        proto: The rendered `onnx.ModelProto`.
        ensemble: What stands around it.
        difference: Largest difference from the mean over views, over the largest score; None
            where no data could be run.
    """

    proto: Any
    ensemble: Ensemble
    difference: float | None


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
        probes: Samples; without any, random ones are drawn where the input's size is known.
        options: Providers and threads.

    Raises:
        CheckFailed: None does.
        ModelError: The graph cannot be run once for each view.
    """
    reasons = []
    reference = Reference.open(proto, ensembles[0], options, source)
    feeds = _feeds(source, probes)
    for ensemble in ensembles:
        wrapped = wrap(source, proto, ensemble)
        if not feeds and ensemble is not ensembles[-1] and not ensemble.batch_is_free:
            continue  # a fixed batch is doubled only where that was tried
        try:
            content = model_io.serialize(wrapped)
            session = runtime.open_session(content, options, source.base_dir)
            differences = [reference.difference(session, feed) for feed in feeds]
        except (InputError, RunFailure) as error:
            reasons.append(f"{ensemble.way}: {error}")
            continue
        largest = max(differences, default=None)
        if largest is None or largest <= reference.tolerance:
            return Wrapped(wrapped, ensemble, largest)
        reasons.append(f"{ensemble.way}: off by {largest:.1e} of the largest score")
    raise CheckFailed(
        f"an ensemble around '{source.name}' does not give the mean over its views "
        f"({'; '.join(reasons)}): nothing was written; please report this with the model"
    )


def _feeds(source: LoadedModel, probes: Sequence[Probe]) -> list[dict[str, np.ndarray]]:
    """One batch, and where the batch is dynamic its first sample alone."""
    try:
        found = [dict(probe.feeds) for probe in probes[:1]] or [_random(source)]
    except DataError:
        return []
    if all(spec.fixed_batch is None for spec in source.inputs):
        found.append({name: array[:1] for name, array in found[0].items()})
    return found


def _random(source: LoadedModel) -> dict[str, np.ndarray]:
    reading = prepare_scan(source, (), _RANDOM, ScanOptions(), RuntimeOptions())
    batch = next(iter(reading.batcher.group(reading.source)))
    return dict(reading.batcher.feeds(batch))


@dataclass(frozen=True, slots=True)
class Reference:
    """The mean over views, from the model inside.

    Attributes:
        session: The model inside, with the tensor that is averaged as an output.
        ensemble: What stands around it.
        tap: Name of that output.
    """

    session: Session
    ensemble: Ensemble
    tap: str

    @classmethod
    def open(
        cls, proto: Any, ensemble: Ensemble, options: RuntimeOptions, source: LoadedModel
    ) -> Reference:
        """Opens the model inside.

        Raises:
            ModelError: It does not load.
        """
        if ensemble.at == ensemble.scores.name:
            content = model_io.serialize(proto)
            tap = ensemble.at
        else:
            kind = ir.TensorType(ir.DataType.from_numpy(np.dtype(str(ensemble.scores.dtype))))
            value = ir.Value(name=_TAP, type=kind)
            node = ir.node("Identity", [ir.Value(name=ensemble.at)], outputs=[value])
            content, tap = model_io.with_extra_outputs(proto, [node]), _TAP
        return cls(runtime.open_session(content, options, source.base_dir), ensemble, tap)

    @property
    def tolerance(self) -> float:
        """What rounding may do, as a share of the largest score."""
        return _ROUNDING.get(str(self.ensemble.scores.dtype), 1e-5)

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """float64, in the shape of the scores: what the ensemble should give.

        Raises:
            RunFailure: The model inside does not run.
        """
        plan, name = self.ensemble, self.ensemble.image.spec.name
        given = feeds[name]
        images = plan.image.unfolded(given)
        total: Any = 0.0
        for view in plan.views:
            seen = view(images, plan.image.axes).reshape(given.shape)
            scores = self.session.run([self.tap], {**feeds, name: seen})[self.tap]
            wide = np.asarray(scores, np.float64)
            total = total + (np.exp(_log_softmax(wide)) if plan.takes_logarithm else wide)
        mean: np.ndarray = total / len(plan.views)
        if plan.takes_logarithm:
            mean = np.log(np.maximum(mean, plan.least_probability))
        elif plan.ends_in is not None:
            mean = _log_softmax(mean)
            mean = np.exp(mean) if plan.ends_in == "Softmax" else mean
        return mean

    def difference(self, session: Session, feeds: Mapping[str, np.ndarray]) -> float:
        """Largest difference of a wrapped model's scores, over the largest score."""
        name = self.ensemble.scores.name
        expected = self(feeds)
        got = np.asarray(session.run([name], feeds)[name], np.float64)
        if got.size != expected.size:
            return float("inf")
        apart = np.abs(got.reshape(expected.shape) - expected)
        return float(apart.max() / max(np.abs(expected).max(), 1e-30))


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    """Over all scores of an image."""
    rows = scores.reshape(len(scores), -1)
    rows = rows - rows.max(axis=1, keepdims=True)
    normal: np.ndarray = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return normal.reshape(scores.shape)
