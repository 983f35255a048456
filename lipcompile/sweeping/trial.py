"""One setting, built and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lipcompile import model_io
from lipcompile.calibration.options import ScanOptions
from lipcompile.calibration.probes import Probe
from lipcompile.calibration.table import CalibrationTable
from lipcompile.compiling import Compiled, Task, compile_task, open_task
from lipcompile.errors import InputError, RunFailure
from lipcompile.forged import Hard
from lipcompile.forging import thresholds_of
from lipcompile.measure import LatencyRatio, latency_ratio
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selector
from lipcompile.statistics import PairedDifference, exact_interval
from lipcompile.sweeping.examples import Examples, Run
from lipcompile.sweeping.settings import Setting
from lipcompile.sweeping.strength import LayerStrength, Strengths, singular_of, suppressed_of
from lipcompile.zeroing import Zeroing

PAIRS = 40  # of runs, for the latency ratio
_NOT_HAD = (InputError, RunFailure)  # of one setting; the others may work


@dataclass(frozen=True, slots=True)
class Share:
    """A share of samples, with its exact 95 % interval (Clopper and Pearson)."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, hits: np.ndarray) -> Share:
        """From bool [N], N >= 1."""
        low, high = exact_interval(int(hits.sum()), len(hits))
        return cls(float(hits.mean()), low, high, len(hits))

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "interval": [self.low, self.high], "n": self.n}


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What a hardened model answers on some of the samples, beside the original.

    Attributes:
        accuracy: Share of correct answers, with labels.
        clean: Its paired difference from the original's.
        agreement: Share of samples with the original's class; NaN is no answer.
    """

    accuracy: Share | None
    clean: PairedDifference | None
    agreement: Share

    @classmethod
    def of(
        cls,
        original: np.ndarray,
        hardened: np.ndarray,
        labels: np.ndarray | None,
        rows: np.ndarray,
    ) -> Answers:
        """From classes [N] of both models, on the samples `rows`."""
        first, second = original[rows], hardened[rows]
        agreement = Share.of((first == second) & (first >= 0))
        if labels is None:
            return cls(None, None, agreement)
        before, after = first == labels[rows], second == labels[rows]
        return cls(Share.of(after), PairedDifference.of(before, after), agreement)

    @property
    def drop(self) -> float:
        """By how much clean accuracy fell; without labels, by how much it can have fallen."""
        return -self.clean.difference if self.clean is not None else 1 - self.agreement.value

    def to_json(self) -> dict[str, Any]:
        return {
            "accuracy": self.accuracy.to_json() if self.accuracy else None,
            "clean_difference": self.clean.to_json() if self.clean else None,
            "agreement": self.agreement.to_json(),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What was measured of a setting.

    Attributes:
        setting: The setting.
        problem: Why it could not be built or run; nothing else is known then.
        classes: Its answers on all samples, int64 [N]. The model itself is not kept: there may
            be hundreds.
        latency: Over the original's.
        layers: What it does to each layer, in graph order; none for an ensemble alone.
    """

    setting: Setting
    problem: str | None = None
    classes: np.ndarray | None = None
    latency: LatencyRatio | None = None
    layers: tuple[LayerStrength, ...] = ()

    @property
    def singular(self) -> tuple[float, float] | None:
        """Mean and worst over the layers: the singular ratios, where there are any."""
        return singular_of(self.layers)

    @property
    def suppressed(self) -> float | None:
        """Mean over the layers."""
        return suppressed_of(self.layers)

    def to_json(self) -> dict[str, Any]:
        mean, worst = self.singular or (None, None)
        return {
            **self.setting.to_json(),
            "flags": self.setting.flags(),
            "problem": self.problem,
            "latency": asdict(self.latency) if self.latency else None,
            "layers": [layer.to_json() for layer in self.layers],
            "suppressed": self.suppressed,
            "singular_mean": mean,
            "singular_worst": worst,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What every setting is built from and measured with.

    Attributes:
        model: The original, as the user handed it in.
        source: The same, loaded; its graph is not edited.
        selector: Which layers are wanted.
        scan: How calibration data is read.
        table: Maxima, and counts at every c_r.
        probes: Calibration samples with the original's outputs, to check outputs on.
        strengths: What thresholds do to each layer.
        examples: Samples to answer.
        original: The original's answers.
        options: Where models run.
    """

    model: object
    source: LoadedModel
    selector: Selector | None
    scan: ScanOptions
    table: CalibrationTable | None
    probes: Sequence[Probe]
    strengths: Strengths | None
    examples: Examples
    original: Run
    options: RuntimeOptions

    def try_out(self, setting: Setting) -> Trial:
        """Builds and measures a setting; a setting that cannot be had is no failure."""
        try:
            task, compiled = self.build(setting)
            run = self._run(task, compiled)
        except _NOT_HAD as error:
            return Trial(setting, str(error))
        layers = self._layers(setting, task, compiled)
        return Trial(setting, None, run.classes, self._latency(run), layers)

    def answers(self, setting: Setting) -> np.ndarray | None:
        """Its classes on all samples, and nothing else; None where it cannot be had."""
        try:
            return self._run(*self.build(setting)).classes
        except _NOT_HAD:
            return None

    def latency(self, setting: Setting) -> LatencyRatio:
        """Measures the latency of a setting that was tried out once more."""
        return self._latency(self._run(*self.build(setting)))

    def build(
        self, setting: Setting, table: CalibrationTable | None = None
    ) -> tuple[Task, Compiled]:
        """The hardened model, checked.

        Args:
            setting: The setting.
            table: A table to name in the model's provenance; None takes what `harden` would
                measure for this setting alone.

        Raises:
            LipCompileError: It cannot be had.
        """
        request = setting.request()
        hardens = setting.variant != "none"
        task = open_task(
            self.model, self.selector if hardens else None, self.options, False, request
        )
        if table is None and hardens:
            table = self._table(task, setting)
        return task, compile_task(task, request, table if hardens else None, self.probes)

    def _table(self, task: Task, setting: Setting) -> CalibrationTable | None:
        """Only the counts of this setting: a table's digest depends on what it holds."""
        if self.table is None or setting.variant != "weight":
            return self.table and replace(self.table, counts=())
        c_r = setting.request().c_r
        wanted = {
            (threshold.site.tensor, threshold.c)
            for threshold in thresholds_of(task.selection, self.table, c_r, Hard())
        }
        kept = tuple(row for row in self.table.counts if (row.tensor, row.c) in wanted)
        return replace(self.table, counts=kept)

    def _run(self, task: Task, compiled: Compiled) -> Run:
        return self.examples.run(model_io.load(compiled.proto, task.loaded.base_dir))

    def _latency(self, run: Run) -> LatencyRatio:
        return latency_ratio(self.original.session, run.session, self.original.feeds, PAIRS)

    def _layers(
        self, setting: Setting, task: Task, compiled: Compiled
    ) -> tuple[LayerStrength, ...]:
        if setting.c_r is None or self.strengths is None:
            return ()
        if isinstance(compiled.done, Zeroing):
            done = compiled.done
            return self.strengths.zeroed(done.plans, done.thresholds)
        return self.strengths.at(setting.request().c_r.assign(task.selection))
