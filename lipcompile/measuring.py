"""From calibration data, or a table, to the maxima and counts that a request needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lipcompile.calibration.calibrate import run_counting, run_scan
from lipcompile.calibration.counting import check_readable_twice, prepare_counting
from lipcompile.calibration.journal import Journal
from lipcompile.calibration.options import ScanOptions
from lipcompile.calibration.preparing import prepare_scan
from lipcompile.calibration.probes import PROBE_SAMPLES, Probe
from lipcompile.calibration.scan import Progress, Scan
from lipcompile.calibration.table import CalibrationTable, load_table
from lipcompile.errors import DataError
from lipcompile.forged import Hard
from lipcompile.forging import thresholds_of
from lipcompile.model_io import LoadedModel
from lipcompile.placement import Threshold
from lipcompile.request import Request
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selection
from lipcompile.zeroing import lacks_counts


@dataclass(frozen=True, slots=True)
class Measuring:
    """How maxima and counts are come by: from data, or from a table.

    Attributes:
        loaded: The model.
        selection: Its sites.
        calib: Calibration data, or None.
        table: A table, or its path, in place of a scan for maxima; or None.
        options: How to read the data.
        runtime: Providers and threads.
        journal: Where a scan stands, for Ctrl-C and for processes that are killed.
        progress: Called with samples done and samples in all (None if unknown).
    """

    loaded: LoadedModel
    selection: Selection
    calib: object
    table: CalibrationTable | str | os.PathLike[str] | None
    options: ScanOptions
    runtime: RuntimeOptions
    journal: Journal
    progress: Progress | None

    def run(self, request: Request) -> tuple[CalibrationTable | None, Sequence[Probe]]:
        """The table, given or scanned, and probes of the data where there is any; variant
        "none" needs no table."""
        if request.variant == "none":
            return None, () if self.calib is None else self._probes()
        table = self._given()
        lacking = request.weight is not None and (table is None or self._lacks(table, request))
        counting = lacking and self.calib is not None
        if counting:
            check_readable_twice(self.calib)
        probes: Sequence[Probe] = ()
        if table is None:
            running = self._prepared(self.options)
            run_scan(running, self.journal, self.progress)
            table, probes = running.table, running.probe
        elif self.calib is not None:
            probes = self._probes()
        return (self._counted(table, request) if counting else table), probes

    def _given(self) -> CalibrationTable | None:
        table, loaded = self.table, self.loaded
        given = load_table(Path(table)) if isinstance(table, (str, os.PathLike)) else table
        if given is not None:
            given.check_model(loaded.digest, loaded.name)
            given.require(site.tensor for site in self.selection.sites)
        return given

    def _lacks(self, table: CalibrationTable, request: Request) -> bool:
        return lacks_counts(self._thresholds(table, request), table)

    def _thresholds(self, table: CalibrationTable, request: Request) -> tuple[Threshold, ...]:
        return thresholds_of(self.selection, table, request.c_r, Hard())

    def _prepared(self, options: ScanOptions) -> Scan:
        sites = self.selection.sites
        return prepare_scan(self.loaded, sites, self.calib, options, self.runtime)

    def _probes(self) -> Sequence[Probe]:
        """Samples to compare outputs on; the maxima come from elsewhere."""
        enough = min(self.options.samples or PROBE_SAMPLES, PROBE_SAMPLES)
        running = self._prepared(replace(self.options, samples=enough))
        run_scan(running, None, self.progress)
        return running.probe

    def _counted(self, table: CalibrationTable, request: Request) -> CalibrationTable:
        ratios = dict.fromkeys(t.c_r for t in self._thresholds(table, request))
        counting = prepare_counting(
            self.loaded,
            self.selection.sites,
            table,
            tuple(ratios),
            self.calib,
            self.options,
            self.runtime,
        )
        run_counting(counting, self.journal, self.progress, again=self.table is None)
        counted = counting.counted_table
        if counted.data.digest != table.data.digest:
            raise DataError(
                f"the table's maxima are of {table.data.samples} samples of "
                f"'{table.data.label}', and --calib has {counted.data.samples} of "
                f"'{counted.data.label}', which are others: give the data of the table, or "
                "count with 'lipcompile calibrate --table ... --count-cr ...' first"
            )
        return counted
