"""The data of a verification: samples one by one, with the original's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lipcompile.calibration.options import ScanOptions
from lipcompile.calibration.preparing import prepare_scan
from lipcompile.calibration.probes import Probe
from lipcompile.calibration.scan import Progress
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import RuntimeOptions, Session

DEFAULT_SAMPLES = 32
_BYTES = 128 << 20  # of inputs and outputs, which are all kept


@dataclass(frozen=True, slots=True)
class Samples:
    """What was run through the original.

    Attributes:
        probes: Feeds of one sample each (or of one fixed batch), with the original's outputs.
        label: The samples in words.
    """

    probes: Sequence[Probe]
    label: str


def read_samples(
    original: LoadedModel,
    session: Session,
    data: object,
    scan: ScanOptions,
    progress: Progress | None,
) -> Samples:
    """Reads data, or draws random samples where there is none, and runs the original on it.

    Raises:
        DataError: The data cannot be used with this model.
        RunFailure: The original does not run on it.
    """
    wanted = scan.samples or DEFAULT_SAMPLES
    scan = replace(scan, samples=wanted, batch_size=1)
    given = data if data is not None else f"random:{wanted}"
    reading = prepare_scan(original, (), given, scan, RuntimeOptions())
    outputs = [spec.name for spec in original.outputs if spec.dtype is not None]
    probes: list[Probe] = []
    size = done = 0
    for batch in reading.batcher.group(reading.source):
        feeds = reading.batcher.feeds(batch)
        results = session.run(outputs, feeds)
        probes.append(Probe(feeds, results, len(batch), reading.batcher.padding(batch)))
        done += len(batch)
        if progress is not None:
            progress(done, reading.source.count)
        size += sum(array.nbytes for array in (*feeds.values(), *results.values()))
        if size > _BYTES:
            break
    noun = "sample" if done == 1 else "samples"
    if reading.source.kind == "random":
        return Samples(probes, f"{done} random {noun} (seed {scan.seed})")
    return Samples(probes, f"{done} {noun} of '{reading.source.label}'")
