"""From a model and data to the bench that settings are built and measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lipcompile import model_io
from lipcompile.calibration.counting import check_readable_twice, prepare_counting
from lipcompile.calibration.options import ScanOptions
from lipcompile.calibration.preparing import prepare_scan
from lipcompile.calibration.probes import Probe
from lipcompile.calibration.scan import Progress
from lipcompile.calibration.table import CalibrationTable
from lipcompile.compiling import Task, open_task
from lipcompile.errors import Interrupted, NonFiniteError
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selector
from lipcompile.sweeping.examples import Parts
from lipcompile.sweeping.opening import DataOptions, open_examples
from lipcompile.sweeping.settings import Setting
from lipcompile.sweeping.strength import VECTORS, Strengths, measure_strengths
from lipcompile.sweeping.trial import Bench


@dataclass(frozen=True, slots=True)
class Preparing:
    """How data is read.

    Attributes:
        reading: The samples that settings are compared on.
        scan: Calibration data.
        options: Where models run.
        progress: Called while samples are read.
        check: Refuses outputs that are among these files of the model.
    """

    reading: DataOptions
    scan: ScanOptions
    options: RuntimeOptions
    progress: Progress | None
    check: Callable[[tuple[Path, ...]], None] = lambda _: None

    def run(
        self,
        model: object,
        calib: object,
        data: object,
        settings: Sequence[Setting],
        selector: Selector | None,
    ) -> tuple[Bench, Parts]:
        """Reads the data, runs the original on it, and calibrates once for all settings.

        Raises:
            LipCompileError: The model or the data cannot be used.
        """
        options = replace(self.options, spinning=False)  # models take turns
        source = model_io.load(model)
        self.check(tuple(item.path for item in source.external))
        calibrated = [setting for setting in settings if setting.c_r is not None]
        task = None
        if calibrated:
            check_readable_twice(calib)
            first = calibrated[0].request()
            task = open_task(model, selector, self.options, False, first)
        examples = open_examples(source, data, self.reading, self.scan, options, self.progress)
        parts = Parts.of(examples.count, self.reading.seed)
        original = examples.run(source)
        if (original.classes < 0).all():
            raise NonFiniteError(
                f"'{source.name}' gives NaN as class scores for all {examples.count} samples: "
                "check the preprocessing (--mean, --std, --preprocess)"
            )
        table: CalibrationTable | None = None
        probes: tuple[Probe, ...] = ()
        strengths: Strengths | None = None
        if task is not None:
            c_rs = sorted({x.c_r for x in calibrated if x.c_r is not None})
            table, probes = self._calibrate(task, calib, [0.0, *c_rs])
            strengths = measure_strengths(
                task.loaded, task.selection, table, c_rs, probes, self.options
            )
        bench = Bench(
            model,
            source,
            selector,
            self.scan,
            table,
            probes,
            strengths,
            examples,
            original,
            options,
        )
        return bench, parts

    def _calibrate(
        self, task: Task, calib: object, c_rs: Sequence[float]
    ) -> tuple[CalibrationTable, tuple[Probe, ...]]:
        """Maxima, and counts at every c_r and of what is 0 anyway; and a few samples with the
        original's outputs, drawn from all of them (the first ones may be of one class)."""
        sites, how = task.selection.sites, (self.scan, self.options)
        fewer = min(self.scan.samples or VECTORS, VECTORS)
        try:
            running = prepare_scan(task.loaded, sites, calib, *how, probes=0)
            running.run(self.progress)
            counting = prepare_counting(task.loaded, sites, running.table, c_rs, calib, *how)
            counting.run(self.progress, again=True)
            drawn = replace(self.scan, samples=fewer)
            some = prepare_scan(task.loaded, sites, calib, drawn, self.options)
            some.run()
        except KeyboardInterrupt as interrupt:
            raise Interrupted(
                "interrupted while calibrating: nothing was written, run again"
            ) from interrupt
        return counting.counted_table, tuple(some.probe)
