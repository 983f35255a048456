"""Opens the data that settings are compared on."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from typing import Any

from lipcompile.calibration.options import ScanOptions
from lipcompile.calibration.preparing import prepare_scan
from lipcompile.calibration.probes import PROBE_SAMPLES
from lipcompile.calibration.scan import Progress, Scan
from lipcompile.errors import DataError, OptionError
from lipcompile.labelled import LabelledImages, open_labelled
from lipcompile.labelled.labelled_files import NO_LABELS
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import RuntimeOptions
from lipcompile.scores import class_count
from lipcompile.sweeping.examples import Examples, Labelled, Unlabelled

DEFAULT_SAMPLES = 1000
_BATCH = 64
_BYTES = 64 << 20  # of unlabelled samples; a scan keeps no more than twice as many
_VALUES = 1_500_000  # pixel values per run; more does not fit the caches of a CPU


@dataclass(frozen=True, slots=True)
class DataOptions:
    """How the samples that settings are compared on are read.

    Attributes:
        labelled: Whether labels are wanted; without, agreement with the original takes the
            place of accuracy, on up to 256 samples or 64 MiB.
        samples: At most so many, drawn by `seed`; None takes all.
        seed: Of the samples drawn, and of their two parts.
        labels: Labels apart from the data, as in `lipcompile.audit`.
        classes: Class names by index, as in `lipcompile.audit`.
        scores: The model output with the class scores, where it has several.
    """

    labelled: bool = True
    samples: int | None = DEFAULT_SAMPLES
    seed: int = 0
    labels: str | os.PathLike[str] | None = None
    classes: Any = None
    scores: str | None = None

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise OptionError(f"data samples = {self.samples}: give 1 or more, or all")
        if self.seed < 0:
            raise OptionError(f"data seed = {self.seed} is negative: give 0 or more")
        if not self.labelled and (self.labels, self.classes) != (None, None):
            raise OptionError(
                "labels or class names were given, and the data is said to be unlabelled: "
                "leave one of them out"
            )


def open_examples(
    model: LoadedModel,
    data: object,
    how: DataOptions,
    scan: ScanOptions,
    options: RuntimeOptions,
    progress: Progress | None,
) -> Examples:
    """Reads the data.

    Args:
        model: The original.
        data: Labelled images as for `lipcompile.audit`; else as for `lipcompile.calibrate`.
        how: How it is read.
        scan: Its preprocessing and image flags serve here too.
        options: Where models run.
        progress: Called while samples are read.

    Raises:
        DataError: The data or its labels cannot be used with this model.
    """
    if how.labelled:
        images = _labelled(model, data, how, scan)
        batch = max(1, min(_BATCH, _VALUES // images.pixels[0].size))
        return Labelled(images, options, how.scores, scan.batch_size or batch)
    wanted = min(how.samples or PROBE_SAMPLES, PROBE_SAMPLES)
    reading = replace(scan, samples=wanted, seed=how.seed)
    running = prepare_scan(model, (), data, reading, options)
    _read(running, progress)
    record = running.table.data
    said = {"name": record.label, "images": record.samples, "available": None}
    return Unlabelled(running.probe, options, how.scores, {**said, "digest": record.digest})


class _Full(Exception):
    """Enough was read."""


def _read(running: Scan, progress: Progress | None) -> None:
    """Reads samples, as many as memory should hold."""

    def watched(done: int, total: int | None) -> None:
        if progress is not None:
            progress(done, total)
        kept = [x for p in running.probe for x in (*p.feeds.values(), *p.outputs.values())]
        if sum(array.nbytes for array in kept) >= _BYTES:
            raise _Full

    with contextlib.suppress(_Full):
        running.run(watched)


def _labelled(
    model: LoadedModel, data: object, how: DataOptions, scan: ScanOptions
) -> LabelledImages:
    try:
        return open_labelled(
            data,
            model.inputs,
            num_classes=class_count(model, how.scores),
            model=model.name,
            samples=how.samples,
            seed=how.seed,
            labels=how.labels,
            classes=how.classes,
            preprocess=scan.preprocess,
            image_flags=scan.image_flags,
        )
    except DataError as error:
        if NO_LABELS not in str(error):
            raise
        raise DataError(
            f"{error}; or pass --unlabelled to compare with the original's answers instead"
        ) from error
