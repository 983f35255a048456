"""smooth(): randomized smoothing of a deployed model over labelled images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lipcompile.calibration.sources.reading_ahead import cores, read_ahead
from lipcompile.certifying.smoothing.counting import CountingModel
from lipcompile.certifying.smoothing.journal import Journal, Progress
from lipcompile.certifying.smoothing.noise import BLOCK, ImageNoise, Stream
from lipcompile.certifying.smoothing.opening import open_counting
from lipcompile.certifying.smoothing.options import SmoothingOptions
from lipcompile.certifying.smoothing.outcome import Outcome
from lipcompile.certifying.smoothing.procedures import Want, conclude, next_draws
from lipcompile.certifying.smoothing.result import SmoothingRun
from lipcompile.errors import Interrupted
from lipcompile.labelled import LabelledImages
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import PACKAGES, RuntimeOptions, package_version
from lipcompile.text import count

Notify = Callable[[str], None]
_SECONDS = 10.0  # between lines about the progress of one image
_MOST_WORKERS = 16
_MOST_WORKERS_ON_A_DEVICE = 8  # each holds a batch there; at least one makes noise meanwhile


def smooth(
    model: LoadedModel,
    images: LabelledImages,
    options: SmoothingOptions,
    runtime: RuntimeOptions | None = None,
    *,
    scores: str | None = None,
    journal: Path | None = None,
    notify: Notify | None = None,
) -> SmoothingRun:
    """Runs CERTIFY, PREDICT or the sequential test over images.

    Each outcome holds with probability at least 1 - alpha by itself, over the noise; among
    many images some wrong ones are to be expected. The model is taken as the function that its
    file computes in ONNX Runtime, whatever is inside: float16 and quantised files, too.

    Args:
        model: A classifier with one float input.
        images: What is smoothed, and how pixels become the model's input.
        options: Noise, procedure, numbers of draws, alpha, seed.
        runtime: Providers and threads. Threads run batches side by side, each on one.
        scores: The output with the class scores; None finds it.
        journal: A file from which the same call goes on after an interruption. It stays when
            the run is done, for the caller to remove once its result is kept.
        notify: Told each finished image in one line.

    Raises:
        ModelError: It is no classifier, or gives an image other scores in another batch.
        NonFiniteError: The scores of an image itself are NaN.
        Interrupted: Ctrl-C; the message says where the journal is.
        LipCompileError: As `runtime.open_session`, `Session.run`.
    """
    begin = time.perf_counter()
    runtime = runtime or RuntimeOptions()
    single = replace(runtime, threads=1)
    counting = open_counting(
        model, images.normalisation, images.pixels, single, scores=scores, batch=options.batch
    )
    images.check_labels(counting.classes, model.name)
    key = _key(model, images, options, counting)
    kept = Journal(journal, key, len(images.labels))
    smoother = _Smoother(counting, options, images, kept, _workers(runtime), notify)
    progress = kept.restore()
    try:
        outcomes = smoother.all_from(progress)
    except KeyboardInterrupt as interrupt:
        raise _interrupted(smoother.progress, kept) from interrupt
    return SmoothingRun(
        options,
        outcomes,
        images.labels,
        counting.output,
        (*counting.notes, *kept.notes),
        time.perf_counter() - begin,
        sum(outcome.draws + outcome.selection for outcome in outcomes),
    )


class _Smoother:
    """The state of a run: `progress` is always that of some whole number of runs."""

    def __init__(
        self,
        counting: CountingModel,
        options: SmoothingOptions,
        images: LabelledImages,
        journal: Journal,
        workers: int,
        notify: Notify | None,
    ) -> None:
        self.progress = Progress()
        self._counting = counting
        self._options = options
        self._images = images
        self._journal = journal
        self._workers = workers
        self._notify = notify or (lambda _: None)
        self._told = time.monotonic()
        dims = images.pixels.shape[1:]
        self._sigma = counting.sigma_of(options.sigma, dims)

    def all_from(self, progress: Progress) -> tuple[Outcome, ...]:
        self.progress = progress
        for index in range(len(progress.outcomes), len(self._images.labels)):
            outcome = self._one(self._images.pixels[index])
            self.progress = Progress((*self.progress.outcomes, outcome))
            self._journal.keep(self.progress)
            self._tell(f"{self._name()}: {outcome}")
        self._journal.save(self.progress)
        return self.progress.outcomes

    def _one(self, pixels: np.ndarray) -> Outcome:
        noise = ImageNoise(pixels, self._options.seed, self._counting.shape)
        image = self._counting.image_of(pixels)
        while (want := next_draws(self._options, self.progress.tally)) is not None:
            for counts, draws in self._count(image, noise, want):
                tally = self.progress.tally.plus(want.stream, counts, draws)
                self.progress = replace(self.progress, tally=tally)
                self._journal.keep(self.progress)
                self._tell_now_and_then()
        return conclude(self._options, self.progress.tally)

    def _count(
        self, image: np.ndarray, noise: ImageNoise, want: Want
    ) -> Iterator[tuple[np.ndarray, int]]:
        """Counts of the wanted draws, part by part in their order."""
        start = self.progress.tally.made(want.stream)
        step = -(-self._counting.rows // BLOCK) * BLOCK
        parts = [
            (first, min(first + step, want.until)) for first in range(start, want.until, step)
        ]
        tasks = (partial(self._part, image, noise, want.stream, *part) for part in parts)
        return read_ahead(tasks, self._workers if len(parts) > 1 else 0)

    def _part(
        self, image: np.ndarray, noise: ImageNoise, stream: Stream, start: int, stop: int
    ) -> tuple[np.ndarray, int]:
        normals = noise.draws(stream, start, stop)
        return self._counting.count(image, normals, self._sigma), stop - start

    def _name(self) -> str:
        done = len(self.progress.outcomes)
        return f"image {done} of {len(self._images.labels)}"

    def _tell(self, line: str) -> None:
        self._notify(line)
        self._told = time.monotonic()

    def _tell_now_and_then(self) -> None:
        if time.monotonic() - self._told >= _SECONDS:
            done = len(self.progress.outcomes)
            self._tell(
                f"image {done + 1} of {len(self._images.labels)}: "
                f"{self.progress.tally.draws:,} draws of at most {self._options.n:,}"
            )


def _workers(runtime: RuntimeOptions) -> int:
    """How many batches run side by side; 0 for one after the other in this thread."""
    workers = runtime.threads or min(cores(), _MOST_WORKERS)
    if not runtime.providers[0].lower().startswith("cpu"):
        return min(max(workers, 2), _MOST_WORKERS_ON_A_DEVICE)
    return workers if workers > 1 else 0


def _key(
    model: LoadedModel,
    images: LabelledImages,
    options: SmoothingOptions,
    counting: CountingModel,
) -> dict[str, Any]:
    """All that decides the result."""
    return {
        "model": model.digest,
        "data": images.digest,
        "normalisation": images.normalisation.to_json(),
        "options": options.to_json(),
        "scores": counting.output,
        "providers": list(counting.session.providers),
        "versions": {name: package_version(name) for name in ("numpy", *PACKAGES)},
    }


def _interrupted(progress: Progress, journal: Journal) -> Interrupted:
    done = f"interrupted after {count(progress.outcomes, 'finished image')}"
    if journal.path is None:
        return Interrupted(f"{done}: without a journal nothing was kept")
    journal.save(progress)
    if journal.notes and "could not be written" in journal.notes[-1]:
        return Interrupted(f"{done}: {journal.notes[-1]}, so nothing was kept")
    return Interrupted(
        f"{done}; what was counted is in '{journal.path}': run the same command again to "
        "go on from there"
    )
