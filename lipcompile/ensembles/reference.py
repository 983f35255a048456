"""What an ensemble should give, computed beside it: every view in NumPy, run by itself.

The wrapped model is compared with that before it is written, and by `verify`, in two steps:
its views with their definition, and its scores with the mean of what the model inside gives
for these very views. In one step, the last bit of a zoomed pixel could make a model jump.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from lipcompile import model_io, runtime
from lipcompile.checks import sensitivity
from lipcompile.ensembles.plan import Ensemble
from lipcompile.errors import RunFailure
from lipcompile.model_io import LoadedModel
from lipcompile.ops import MARK
from lipcompile.passes.wrap_ensemble import view_name
from lipcompile.runtime import RuntimeOptions, Session

# Shares of the largest number. A mean of a few, and a zoom of a few dozen, are sums in the
# type itself; views without a zoom are copies.
_ROUNDING = {"float64": 1e-6, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
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
class Inner:
    """The model inside of an ensemble.

    Attributes:
        ensemble: What stands around it.
        session: The model, with the tensor that is averaged as an output.
        tap: Name of that output.
        without_optimisation: Opens the same model as it is written.
    """

    ensemble: Ensemble
    session: Session
    tap: str
    without_optimisation: Callable[[], Inner]

    @classmethod
    def open(
        cls,
        source: LoadedModel,
        proto: Any,
        ensemble: Ensemble,
        options: RuntimeOptions,
        optimize: bool = True,
    ) -> Inner:
        """Opens `proto`, a rewrite of `source`, as in `Reference.open`."""
        at = [] if ensemble.at == ensemble.scores.name else [ensemble.at]
        session = _open(source, proto, _taps(at, ensemble.dtype), options, optimize)
        tap = f"{_TAP}/{ensemble.at}" if at else ensemble.at
        plain = partial(cls.open, source, proto, ensemble, options, optimize=False)
        return cls(ensemble, session, tap, plain)

    def runs(self, feeds: Mapping[str, np.ndarray]) -> bool:
        """Whether the model takes inputs of these shapes."""
        try:
            self.session.run([self.tap], feeds)
        except RunFailure:
            return False
        return True

    def mean(self, views: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        """float64: what the ensemble should give for feeds with these views."""
        plan = self.ensemble
        total: Any = 0.0
        for feeds in views:
            scores = np.asarray(self.session.run([self.tap], feeds)[self.tap], np.float64)
            total = total + (np.exp(_log_softmax(scores)) if plan.takes_logarithm else scores)
        mean: np.ndarray = total / len(views)
        if plan.takes_logarithm:
            mean = np.log(np.maximum(mean, plan.least_probability))
        elif plan.ends_in is not None:
            mean = _log_softmax(mean)
            mean = np.exp(mean) if plan.ends_in == "Softmax" else mean
        return mean


@dataclass(frozen=True, slots=True)
class Reference:
    """A wrapped model, and the model inside to compare it with.

    Attributes:
        inner: The model inside.
        outer: The wrapped model, with its views as outputs.
    """

    inner: Inner
    outer: Session

    @classmethod
    def open(
        cls, source: LoadedModel, inner: Inner, wrapped: Any, options: RuntimeOptions
    ) -> Reference:
        """Opens the wrapped model on the CPU, where sums are not rounded to fewer bits.

        Raises:
            ModelError: It does not load.
        """
        names = [view_name(index) for index in range(1, len(inner.ensemble.views))]
        taps = _taps(names, str(inner.ensemble.image.spec.dtype))
        return cls(inner, _open(source, wrapped, taps, options))

    def compare(self, samples: Sequence[Mapping[str, np.ndarray]]) -> list[Apart]:
        """Every view against its definition, and the scores against the mean over views.

        Args:
            samples: Complete inputs by name, run one after the other.

        Raises:
            RunFailure: One of the two models does not run.
        """
        dtype = self.inner.ensemble.dtype
        found: list[Apart] = []
        scores, seen = [], []
        for feeds in samples:
            views, given = self._views(feeds, found)
            seen.append((views, self.inner.mean(views)))
            scores.append(_apart("scores", given, seen[-1][1], dtype))
        if not all(apart.holds for apart in scores):
            plain = self.inner.without_optimisation()
            own = max(_apart("", plain.mean(x), mean, dtype).difference for x, mean in seen)
            allowed = sensitivity(own)  # where a model jumps, the last bit of a sum decides
            scores = [replace(apart, allowed=max(apart.allowed, allowed)) for apart in scores]
        return found + scores

    def _views(
        self, feeds: Mapping[str, np.ndarray], found: list[Apart]
    ) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
        """Feeds with each of the wrapped model's views, which are compared into `found`, and
        its scores."""
        plan = self.inner.ensemble
        image = plan.image.spec
        names = [f"{_TAP}/{view_name(index)}" for index in range(1, len(plan.views))]
        results = self.outer.run([plan.scores.name, *names], feeds)
        seen = [feeds[image.name], *(results[name] for name in names)]
        pixels = plan.image.unfolded(feeds[image.name])
        for index, (view, x) in enumerate(zip(plan.views, seen, strict=True)):
            dtype = str(image.dtype) if view.zoom != 1.0 else None
            found.append(_apart(f"view {index}", x, view(pixels, plan.image.axes), dtype))
        return [{**feeds, image.name: x} for x in seen], results[plan.scores.name]


def _open(
    source: LoadedModel,
    proto: Any,
    taps: Iterator[ir.Node],
    options: RuntimeOptions,
    optimize: bool = True,
) -> Session:
    on_cpu = RuntimeOptions(
        threads=options.threads, optimize=optimize, spinning=False, verbose=options.verbose
    )
    content = model_io.with_extra_outputs(proto, list(taps))
    return runtime.open_session(content, on_cpu, source.base_dir)


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
    finite = np.isfinite(wanted)
    if not np.array_equal(wide[~finite], wanted[~finite], equal_nan=True):
        return Apart(what, float("inf"), allowed)
    largest = max(float(np.abs(wanted[finite]).max(initial=0.0)), 1e-30)
    difference = float(np.abs(wide[finite] - wanted[finite]).max(initial=0.0)) / largest
    return Apart(what, difference, allowed)


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    """Over all scores of an image."""
    rows = scores.reshape(len(scores), -1)
    rows = rows - rows.max(axis=1, keepdims=True)
    normal: np.ndarray = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return normal.reshape(scores.shape)
