"""Run the data through the tapped model, and add up what the taps measure.

A scan can measure more: the results of further nodes are added up over all samples. While the
model runs, threads read ahead. What was measured is a `ScanState` at any moment, which a
journal keeps and other processes can add to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from lipcompile import model_io, runtime
from lipcompile.calibration.batches import Batcher
from lipcompile.calibration.coverage import interval
from lipcompile.calibration.data_record import DataRecord
from lipcompile.calibration.identity import scan_key
from lipcompile.calibration.journal import Journal, Phase, ScanState, stamp_hash
from lipcompile.calibration.options import ScanOptions
from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.probes import PROBE_SAMPLES, Probe
from lipcompile.calibration.shards import ShardRecord
from lipcompile.calibration.sketch import sketch_of
from lipcompile.calibration.sources.opening import Source
from lipcompile.calibration.sources.sample import Sample
from lipcompile.calibration.table import CalibrationTable, SiteRange
from lipcompile.calibration.tally import Tally, add_digests
from lipcompile.calibration.tapped import Feeds, Reading, Tap, TappedModel
from lipcompile.errors import (
    DataError,
    NonFiniteError,
    OutOfMemory,
    RunFailure,
)
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Site

Progress = Callable[[int, int | None], None]

_PROBE_BYTES = 128 << 20


@dataclass(slots=True)
class Scan:
    """A running scan; `table` is valid at any moment, for the samples seen so far.

    Attributes:
        data: What `source` was opened from.
        model: The model that is calibrated.
        sites: Its sites.
        source: The samples.
        batcher: How they are grouped into runs.
        options: How they are read.
        runtime_options: Providers and threads.
        transform: The resolved image transform, once an image was read.
        adding: Further taps, whose results are integers that add up over samples.
        probes: How many samples to keep with the model's own outputs.
        shards: Which part of the data the source is, where it is not all of it.
        probe: Those samples, for checks after rewriting.
        state: What was measured so far, and on what.
        finished: Whether all samples were read.
    """

    data: object
    model: model_io.LoadedModel
    sites: Sequence[Site]
    source: Source
    batcher: Batcher
    options: ScanOptions
    runtime_options: RuntimeOptions
    transform: Callable[[], Preprocess | None]
    adding: Sequence[Tap] = ()
    probes: int = PROBE_SAMPLES
    shards: ShardRecord | None = None
    probe: list[Probe] = field(default_factory=list)
    state: ScanState = field(default_factory=ScanState)
    finished: bool = False
    _tapped: TappedModel | None = None
    _bad: list[tuple[int, str, DataError]] = field(default_factory=list)
    _first_bad: DataError | None = None

    def run(
        self, progress: Progress | None = None, kept: Callable[[], None] | None = None
    ) -> None:
        """Reads all samples that were not read yet.

        Args:
            progress: Called with the number of samples done and in all (None if unknown).
            kept: Called after each batch, and at the end, when `state` has it.

        Raises:
            NonFiniteError: A sample makes a site NaN or infinite, unless they are skipped.
            DataError: A sample cannot be read, unless they are skipped.
        """

        def watched() -> None:
            if progress is not None:
                progress(self.state.tally.seen, self.source.count)
            if kept is not None:
                kept()

        if self.state.covered:
            self.probe_first()
        for start, stop in self.state.covered.gaps(self.source.count):
            self.read(start, stop, watched)
        self.conclude()
        if kept is not None:
            kept()

    def read(
        self, start: int, stop: int | None, watched: Callable[[], None] = lambda: None
    ) -> None:
        """Reads the samples at positions from `start` up to `stop`; None is the end.

        Raises:
            NonFiniteError, DataError: As `run`.
        """
        for batch in self.batcher.group(self._samples(start, stop)):
            tally = self._measure(batch)
            behind = batch[-1].position + 1
            self._commit(tally, start, behind)
            start = behind
            watched()
        if stop is None:
            stop = self._bad[-1][0] + 1 if self._bad else start
        self._commit(Tally(), start, stop)

    def conclude(self) -> None:
        """Marks the scan as finished.

        Raises:
            DataError: There was no sample that could be read.
            NonFiniteError: All that could be read were left out.
        """
        tally = self.state.tally
        if not tally.seen:
            raise self.source.nothing_usable(len(tally.unreadable), self._first_bad)
        if not tally.samples:
            raise NonFiniteError(
                f"all {len(tally.nonfinite)} samples of '{self.source.label}' made an "
                "activation NaN or infinite: the model does not work on this data, check the "
                "preprocessing"
            )
        self.finished = True

    @property
    def samples(self) -> int:
        """How many samples entered so far."""
        return self.state.tally.samples

    @property
    def phase(self) -> Phase:
        return "counts" if self.adding else "maxima"

    @property
    def table(self) -> CalibrationTable:
        transform, tally = self.transform(), self.state.tally
        active = self.state.provider or "not run"
        return CalibrationTable(
            model_digest=self.model.digest,
            model=self.model.name,
            sites=tuple(
                SiteRange(site.tensor, site.dtype, tally.absmax.get(site.tensor, 0.0))
                for site in self.sites
            ),
            data=DataRecord(
                self.source.kind,
                self.source.label,
                tally.samples,
                tally.digest,
                tuple(sorted(tally.unreadable)),
                tuple(sorted(tally.nonfinite)),
                tally.sketch,
                self.shards,
            ),
            preprocess=transform.to_json() if transform is not None else None,
            input_range=dict(tally.input_range),
            runtime=f"onnxruntime {runtime.load_onnxruntime().__version__}, {active}",
            complete=self.finished,
        )

    def find_key(self) -> str | None:
        """What a journal knows this scan by; None where the data cannot be found again."""
        transform = self.transform()
        return scan_key(
            self.model,
            self.sites,
            self.adding,
            self.source,
            self.options,
            self.runtime_options,
            transform.to_json() if transform is not None else None,
        )

    def restore(self, journal: Journal, key: str) -> None:
        """Takes what a journal has of this very scan, if the files that were read are as they
        were."""
        state = journal.restore(self.phase, key)
        if state is None:
            return
        if self._stamps(state.covered) != state.stamps:
            journal.told("files that were read have changed: starting afresh")
            return
        of = f" of {self.source.count}" if self.source.count is not None else ""
        journal.told(
            f"{len(state.covered)}{of} samples were measured before, going on from there"
        )
        self.state = state

    def _session(self) -> TappedModel:
        if self._tapped is None:
            how = self.runtime_options
            self._tapped = TappedModel(self.model, self.sites, how, self.adding)
        return self._tapped

    def _samples(self, start: int, stop: int | None) -> Iterator[Sample]:
        """The good samples; what is bad is noted with its position."""
        for outcome in self.source.outcomes(start, stop, self.options.readers):
            if isinstance(outcome.loaded, Sample):
                yield outcome.loaded
            else:
                self._bad.append((outcome.position, outcome.name, outcome.loaded))

    def _commit(self, tally: Tally, start: int, stop: int) -> None:
        """Adds what the samples at these positions gave, in one step: Ctrl-C finds the state
        with all of them or with none."""
        bad = [entry for entry in self._bad if entry[0] < stop]
        self._first_bad = self._first_bad or (bad[0][2] if bad else None)
        covered = interval(start, stop)
        unreadable = Tally(unreadable=tuple(name for _, name, _ in bad))
        provider = self._tapped.provider if self._tapped is not None else ""
        added = ScanState(tally + unreadable, covered, self._stamps(covered), provider)
        self.state = self.state + added
        self._bad = self._bad[len(bad) :]

    def _stamps(self, positions: Iterable[int]) -> int:
        origin = self.source.origin
        if origin is None:
            return 0
        return sum(stamp_hash(i, origin.stamp(i)) for i in positions) % (1 << 64)

    def _measure(self, batch: Sequence[Sample]) -> Tally:
        """Measures one batch; what is wrong with it is told sample by sample."""
        if self.adding and len(batch) > 1 and self.batcher.padding(batch):
            return self._apart(batch)  # a maximum bears repeated rows, a sum does not
        feeds = self.batcher.feeds(batch)
        try:
            reading = self._session().run(feeds, with_outputs=self._wants_probes())
        except RunFailure as error:
            return self._smaller(batch, error)
        if not reading.suspects:
            return self._accept(batch, feeds, reading)
        return self._apart(batch) if len(batch) > 1 else self._examine(batch, feeds, reading)

    def _smaller(self, batch: Sequence[Sample], error: RunFailure) -> Tally:
        """Measures a batch that failed in smaller ones: of half the size, if memory ran out,
        else one by one: its axis may be dynamic in name only, for an exporter's constant
        Reshape."""
        if len(batch) == 1 or self.batcher.fixed is not None:
            raise type(error)(f"sample '{batch[0].name}': {error}") from error
        self.batcher.most = len(batch) // 2 if isinstance(error, OutOfMemory) else 1
        tally, rest = Tally(), batch
        while rest:
            most = self.batcher.most  # a part that does not fit either lowers it
            tally, rest = tally + self._measure(rest[:most]), rest[most:]
        return tally

    def _apart(self, batch: Sequence[Sample]) -> Tally:
        tally = Tally()
        for sample in batch:
            tally += self._measure([sample])
        return tally

    def _examine(self, batch: Sequence[Sample], feeds: Feeds, reading: Reading) -> Tally:
        """Either elements of a site are not finite, or merely their sum overflowed."""
        counts = self._session().count_nonfinite(feeds, reading.suspects)
        if not counts:
            return self._accept(batch, feeds, reading)
        name = batch[0].name
        tensor, count = next(iter(counts.items()))
        layer = next(s.layers[0].name for s in self.sites if s.tensor == tensor)
        if self.options.on_nonfinite == "fail":
            raise NonFiniteError(
                f"sample '{name}' makes {count} elements of '{tensor}' (the input of layer "
                f"'{layer}') NaN or infinite: check the preprocessing or the model, or pass "
                "--on-nonfinite skip to leave such samples out and have them counted"
            )
        return Tally(nonfinite=(name,))

    def _accept(self, batch: Sequence[Sample], feeds: Feeds, reading: Reading) -> Tally:
        if reading.outputs:
            padding = self.batcher.padding(batch)
            self.probe.append(Probe(feeds, reading.outputs, len(batch), padding))
        digests = [sample.digest for sample in batch]
        return Tally(
            absmax=reading.absmax,
            sums=self._sums(batch, reading),
            samples=len(batch),
            digest=add_digests(digests),
            sketch=sketch_of(digests),
            input_range={
                name: (float(x.min()), float(x.max())) for name, x in feeds.items() if x.size
            },
        )

    def _sums(self, batch: Sequence[Sample], reading: Reading) -> dict[str, np.ndarray]:
        """What the further taps gave; a padded batch is one sample, `copies` times."""
        copies = 1 + self.batcher.padding(batch)
        sums = {}
        for name, result in reading.sums.items():
            sums[name], rest = np.divmod(result.astype(np.int64), copies)
            if rest.any():
                raise DataError(
                    f"sample '{batch[0].name}', repeated to fill the model's fixed batch of "
                    f"{copies}, is not measured {copies} times the same: the model mixes the "
                    f"samples of a batch; give a number of samples that {copies} divides"
                )
        return sums

    def _wants_probes(self) -> bool:
        kept = sum(probe.count for probe in self.probe)
        size = sum(
            array.nbytes
            for probe in self.probe
            for array in (*probe.feeds.values(), *probe.outputs.values())
        )
        return kept < self.probes and size < _PROBE_BYTES

    def probe_first(self) -> None:
        """Runs the first samples for the probes alone: others measure them, or did."""
        if not self._wants_probes():
            return
        for batch in self.batcher.group(self._samples(0, self.source.count)):
            self._measure(batch)
            if not self._wants_probes():
                break
        self._bad.clear()
        self.probes = 0
