"""Run the data through the tapped model and keep the running maximum of every site.

A scan can measure more: the results of further nodes are added up over all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from lipcompile import model_io, runtime
from lipcompile.calibration.batches import Batcher
from lipcompile.calibration.merge import merge_ranges
from lipcompile.calibration.preprocess.resolve import resolve
from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.probes import PROBE_SAMPLES, Probe
from lipcompile.calibration.sources.opening import Source, open_source
from lipcompile.calibration.sources.sample import Sample
from lipcompile.calibration.table import (
    CalibrationTable,
    DataRecord,
    SiteRange,
    add_digests,
)
from lipcompile.calibration.tapped import Feeds, Reading, TappedModel
from lipcompile.errors import DataError, NonFiniteError, OptionError, RunFailure
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Site

Progress = Callable[[int, int | None], None]

_PROBE_BYTES = 128 << 20
_MOST_SAMPLES = 10**9


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """How to read calibration data.

    Attributes:
        samples: At most so many samples: a random subset where the length is known.
        batch_size: Samples per run; None chooses by size. A fixed batch in the model wins.
        seed: Of the subset, and of random data.
        on_bad_sample: "fail" or "skip" samples that cannot be read.
        on_nonfinite: "fail" or "skip" samples that make a site NaN or infinite.
        preprocess: How images become tensors: a `Preprocess`, a Hugging Face or timm config
            (path or dict), or None for what the model's input tells.
        image_flags: Keyword arguments of `preprocess.resolve.resolve`, over the config.
    """

    samples: int | None = None
    batch_size: int | None = None
    seed: int = 0
    on_bad_sample: Literal["fail", "skip"] = "fail"
    on_nonfinite: Literal["fail", "skip"] = "fail"
    preprocess: Preprocess | str | Path | Mapping[str, Any] | None = None
    image_flags: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("samples", self.samples), ("batch size", self.batch_size)):
            if value is not None and not 1 <= value <= _MOST_SAMPLES:
                raise OptionError(
                    f"{name} = {value} is out of range: give 1 to {_MOST_SAMPLES:,}"
                )
        policies = {"on_bad_sample": self.on_bad_sample, "on_nonfinite": self.on_nonfinite}
        for name, policy in policies.items():
            if policy not in ("fail", "skip"):
                raise OptionError(f"{name} = '{policy}' is unknown: use fail or skip")
        if self.seed < 0:
            raise OptionError(f"seed = {self.seed} is negative: give 0 or more")


@dataclass(slots=True)
class Scan:
    """A running scan; `table` is valid at any moment, for the samples seen so far.

    Attributes:
        model: The model that is calibrated.
        sites: Its sites.
        source: The samples.
        batcher: How they are grouped into runs.
        transform: The resolved image transform, once an image was read.
        adding: Further nodes, whose results are integers that add up over samples.
        sums: Those results by name, int64, for the samples seen so far.
        probe: Up to 256 samples with the model's own outputs, for checks after rewriting; none
            where `adding` measures.
    """

    model: model_io.LoadedModel
    sites: Sequence[Site]
    source: Source
    batcher: Batcher
    options: ScanOptions
    runtime_options: RuntimeOptions
    transform: Callable[[], Preprocess | None]
    adding: Sequence[ir.Node] = ()
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    probe: list[Probe] = field(default_factory=list)
    absmax: dict[str, float] = field(default_factory=dict)
    input_range: dict[str, tuple[float, float]] = field(default_factory=dict)
    data_digest: str = add_digests(())
    samples: int = 0
    nonfinite: list[str] = field(default_factory=list)
    finished: bool = False
    _tapped: TappedModel | None = None
    _probe_bytes: int = 0

    def run(self, progress: Progress | None = None) -> None:
        """Reads all samples.

        Args:
            progress: Called with the number of samples done and in all (None if unknown).

        Raises:
            NonFiniteError: A sample makes a site NaN or infinite, unless they are skipped.
            DataError: A sample cannot be read, unless they are skipped.
        """
        self._tapped = TappedModel(self.model, self.sites, self.runtime_options, self.adding)
        for batch in self.batcher.group(self.source):
            self._scan(batch)
            if progress is not None:
                progress(self.samples + len(self.nonfinite), self.source.count)
        if not self.samples:
            raise NonFiniteError(
                f"all {len(self.nonfinite)} samples of '{self.source.label}' made an "
                "activation NaN or infinite: the model does not work on this data, check the "
                "preprocessing"
            )
        self.finished = True

    @property
    def table(self) -> CalibrationTable:
        transform = self.transform()
        active = self._tapped.provider if self._tapped else "not run"
        return CalibrationTable(
            model_digest=self.model.digest,
            model=self.model.name,
            sites=tuple(
                SiteRange(site.tensor, site.dtype, self.absmax.get(site.tensor, 0.0))
                for site in self.sites
            ),
            data=DataRecord(
                self.source.kind,
                self.source.label,
                self.samples,
                self.data_digest,
                tuple(sorted(self.source.skipped)),
                tuple(sorted(self.nonfinite)),
            ),
            preprocess=transform.to_json() if transform is not None else None,
            input_range=dict(self.input_range),
            runtime=f"onnxruntime {runtime.load_onnxruntime().__version__}, {active}",
            complete=self.finished,
        )

    def _scan(self, batch: list[Sample]) -> None:
        """Measures one batch; what is wrong with it is told sample by sample."""
        assert self._tapped is not None
        if self.adding and len(batch) > 1 and self.batcher.padding(batch):
            self._scan_apart(batch)  # a maximum bears repeated rows, a sum does not
            return
        feeds = self.batcher.feeds(batch)
        try:
            reading = self._tapped.run(feeds, with_outputs=self._wants_probes())
        except RunFailure as error:
            if len(batch) == 1 or self.batcher.fixed is not None:
                raise RunFailure(f"sample '{batch[0].name}': {error}") from error
            # The batch axis is declared dynamic and is not: an exporter's constant Reshape.
            self._scan_apart(batch)
            self.batcher.limit = 1
            return
        if not reading.suspects:
            self._accept(batch, feeds, reading)
        elif len(batch) > 1:
            self._scan_apart(batch)
        else:
            self._examine(batch, feeds, reading)

    def _scan_apart(self, batch: Sequence[Sample]) -> None:
        for sample in batch:
            self._scan([sample])

    def _examine(self, batch: Sequence[Sample], feeds: Feeds, reading: Reading) -> None:
        """Either elements of a site are not finite, or merely their sum overflowed."""
        assert self._tapped is not None
        counts = self._tapped.count_nonfinite(feeds, reading.suspects)
        if not counts:
            self._accept(batch, feeds, reading)
            return
        name = batch[0].name
        tensor, count = next(iter(counts.items()))
        layer = next(s.layers[0].name for s in self.sites if s.tensor == tensor)
        if self.options.on_nonfinite == "fail":
            raise NonFiniteError(
                f"sample '{name}' makes {count} elements of '{tensor}' (the input of layer "
                f"'{layer}') NaN or infinite: check the preprocessing or the model, or pass "
                "--on-nonfinite skip to leave such samples out and have them counted"
            )
        self.nonfinite.append(name)

    def _accept(self, batch: Sequence[Sample], feeds: Feeds, reading: Reading) -> None:
        for tensor, absmax in reading.absmax.items():
            self.absmax[tensor] = max(absmax, self.absmax.get(tensor, 0.0))
        self._add(batch, reading)
        self.samples += len(batch)
        self.data_digest = add_digests([self.data_digest, *(s.digest for s in batch)])
        ranges = {k: (float(v.min()), float(v.max())) for k, v in feeds.items() if v.size}
        self.input_range = merge_ranges(self.input_range, ranges)
        if reading.outputs:
            padding = self.batcher.padding(batch)
            self.probe.append(Probe(feeds, reading.outputs, len(batch), padding))
            arrays = [*feeds.values(), *reading.outputs.values()]
            self._probe_bytes += sum(array.nbytes for array in arrays)

    def _add(self, batch: Sequence[Sample], reading: Reading) -> None:
        """Adds what the further nodes gave; a padded batch is one sample, `copies` times."""
        copies = 1 + self.batcher.padding(batch)
        for name, result in reading.sums.items():
            once, rest = np.divmod(result.astype(np.int64), copies)
            if rest.any():
                raise DataError(
                    f"sample '{batch[0].name}', repeated to fill the model's fixed batch of "
                    f"{copies}, is not measured {copies} times the same: the model mixes the "
                    f"samples of a batch; give a number of samples that {copies} divides"
                )
            self.sums[name] = self.sums.get(name, 0) + once

    def _wants_probes(self) -> bool:
        if self.adding:
            return False
        kept = sum(probe.count for probe in self.probe)
        return kept < PROBE_SAMPLES and self._probe_bytes < _PROBE_BYTES


def prepare_scan(
    model: model_io.LoadedModel,
    sites: Iterable[Site],
    data: object,
    options: ScanOptions,
    runtime_options: RuntimeOptions,
    adding: Sequence[ir.Node] = (),
) -> Scan:
    """Opens the data for a model; nothing runs yet. `adding` is as in `Scan`.

    Raises:
        DataError: The data cannot be used with this model.
    """
    transform = _Transform(model, options)
    source = open_source(
        data,
        model.inputs,
        preprocess=transform.resolve,
        samples=options.samples,
        seed=options.seed,
        on_bad_sample=options.on_bad_sample,
    )
    if source.kind not in ("images", "list") and (options.preprocess or options.image_flags):
        raise OptionError(
            f"'{source.label}' holds arrays, which are fed as they are, so --preprocess and "
            "flags such as --mean do nothing: leave them out, or give images"
        )
    batcher = Batcher(model.inputs, options.batch_size)
    return Scan(
        model,
        tuple(sites),
        source,
        batcher,
        options,
        runtime_options,
        transform.current,
        adding,
    )


class _Transform:
    """The image transform, resolved when the first image asks for it."""

    def __init__(self, model: model_io.LoadedModel, options: ScanOptions) -> None:
        self._model = model
        self._options = options
        self._resolved: Preprocess | None = None

    def current(self) -> Preprocess | None:
        return self._resolved

    def resolve(self) -> Preprocess:
        if self._resolved is None:
            given = self._options.preprocess
            self._resolved = (
                given
                if isinstance(given, Preprocess)
                else resolve(self._model.inputs[0], given, **self._options.image_flags)
            )
        return self._resolved
