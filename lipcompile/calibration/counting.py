"""Count what thresholds suppress, in one further scan of the data.

Thresholds come from the maxima, so that counting reads the data a second time. For each site
and c_r, with c = c_r * absmax rounded to the site's dtype as form `hard` rounds it, the scan
counts the elements of each input feature that `hard` would set to 0 (arXiv 2406.19622, weight
variant). Counts are exact, whatever the batching.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from lipcompile import model_io
from lipcompile.calibration import runners
from lipcompile.calibration.counts import SiteCounts, in_order
from lipcompile.calibration.options import ScanOptions
from lipcompile.calibration.preparing import prepare_scan
from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.scan import Progress, Scan
from lipcompile.calibration.sources.iterables import Reader
from lipcompile.calibration.table import CalibrationTable
from lipcompile.errors import DataError
from lipcompile.forged.hard import Hard
from lipcompile.passes.count_suppressed import CountTap, tap_suppressed
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Site

_TWICE = "counting reads the data twice: pass a list, an array or files"


def check_readable_twice(data: object) -> None:
    """Refuses data that can be read only once, before anything is measured.

    Raises:
        DataError: It is an iterator, or a reader with get_next().
    """
    if isinstance(data, (Iterator, Reader)):
        raise DataError(
            f"calibration data of type '{type(data).__name__}' gives each sample once, and "
            f"{_TWICE}"
        )


@dataclass(frozen=True, slots=True)
class Counting:
    """A scan that counts.

    Attributes:
        table: The maxima that the thresholds come from.
        taps: What is counted.
        scan: The scan, with the taps' nodes.
    """

    table: CalibrationTable
    taps: tuple[CountTap, ...]
    scan: Scan

    def run(
        self,
        progress: Progress | None = None,
        kept: Callable[[], None] | None = None,
        *,
        again: bool = False,
    ) -> None:
        """Reads all samples.

        Args:
            progress: As for `calibrate`.
            kept: As for `Scan.run`.
            again: The maxima were just measured on this data: it has to give the same samples.

        Raises:
            DataError: The data gives no sample, images other than those that the maxima were
                measured on, or, read `again`, other samples.
        """

        def checked(done: int, total: int | None) -> None:
            self._check_images()  # at the first batch, not after the last
            if progress is not None:
                progress(done, total)

        try:
            runners.run(self.scan, checked, kept)
        except DataError as error:
            if self.scan.samples or self.scan.source.count is not None:
                raise
            raise DataError(f"{error}; {_TWICE}") from error
        if again:
            self._check_samples()

    @property
    def counts(self) -> tuple[SiteCounts, ...]:
        """One entry per site, axis of input features, and threshold, sorted; once the scan has
        run."""
        rows = []
        for tap in self.taps:
            seen, suppressed = tap.read(self.scan.state.tally.sums)
            for c, features in zip(tap.thresholds, suppressed, strict=True):
                rows.append(
                    SiteCounts(tap.tensor, tap.axis, c, seen, tuple(map(int, features)))
                )
        return in_order(rows)

    @property
    def counted_table(self) -> CalibrationTable:
        """The table with the counts.

        Where it was measured on other data, it now names what was counted, and holds those
        counts alone beside the old maxima: such tables of shards merge to that of their union.
        """
        counts, read = self.counts, self.scan.table
        if read.data.digest == self.table.data.digest:
            fresh = {row.key for row in counts}
            kept = [row for row in self.table.counts if row.key not in fresh]
            return replace(self.table, counts=in_order([*kept, *counts]))
        return replace(
            self.table,
            data=read.data,
            preprocess=read.preprocess,
            input_range=read.input_range,
            counts=counts,
        )

    def _check_samples(self) -> None:
        before, now = self.table.data, self.scan.table.data
        if (before.samples, before.digest) != (now.samples, now.digest):
            raise DataError(
                f"'{now.label}' gave {before.samples} samples, and {now.samples} or others "
                f"when it was read again: {_TWICE}, without random augmentation"
            )

    def _check_images(self) -> None:
        before, now = self.table.preprocess, self.scan.table.preprocess
        if before is not None and now is not None and before != now:
            raise DataError(
                f"the maxima were measured on images read as '{Preprocess.from_json(before)}' "
                f"and the images counted now are read as '{Preprocess.from_json(now)}': pass "
                "the same --preprocess and image flags"
            )


def prepare_counting(
    model: model_io.LoadedModel,
    sites: Iterable[Site],
    table: CalibrationTable,
    c_rs: Sequence[float],
    data: object,
    options: ScanOptions,
    runtime: RuntimeOptions,
) -> Counting:
    """Opens the data for counting, for every c_r in one scan; nothing runs yet.

    Args:
        model: The model.
        sites: Its sites; those whose maximum is 0 have no threshold, and are left out.
        table: The maxima.
        c_rs: Relative thresholds, each with 0 <= c_r < 1; 0 counts what is 0 anyway.
        data: What to count in; it need not be what the maxima were measured on.
        options: How to read the data.
        runtime: Providers and threads.

    Raises:
        DataError: A threshold is too small for its dtype, or the data cannot be used.
        TableError: The table lacks a site.
    """
    sites = tuple(sites)
    thresholds = {site.tensor: _thresholds(site, table[site.tensor], c_rs) for site in sites}
    taps = tap_suppressed(sites, thresholds, model.opset)
    return Counting(table, taps, prepare_scan(model, sites, data, options, runtime, taps))


def _thresholds(site: Site, absmax: float, c_rs: Sequence[float]) -> tuple[float, ...]:
    if absmax == 0.0:
        return ()
    try:
        # Two c_r may be one number in a 16-bit type.
        return tuple(
            dict.fromkeys(
                Hard().threshold(c_r * absmax, site.dtype) if c_r else 0.0 for c_r in c_rs
            )
        )
    except DataError as error:
        raise DataError(f"{site.layers[0].label}: {error}") from error
