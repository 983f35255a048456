"""Open data for a model: what it takes to make a scan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lipcompile import model_io
from lipcompile.calibration.batches import Batcher
from lipcompile.calibration.identity import shard_record
from lipcompile.calibration.options import ScanOptions
from lipcompile.calibration.preprocess.resolve import resolve
from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.probes import PROBE_SAMPLES
from lipcompile.calibration.scan import Scan
from lipcompile.calibration.sources.opening import open_source
from lipcompile.calibration.tapped import Tap
from lipcompile.errors import OptionError
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Site


def prepare_scan(
    model: model_io.LoadedModel,
    sites: Iterable[Site],
    data: object,
    options: ScanOptions,
    runtime_options: RuntimeOptions,
    adding: Sequence[Tap] = (),
    probes: int = PROBE_SAMPLES,
) -> Scan:
    """Opens the data for a model; nothing runs yet. `adding` and `probes` are as in `Scan`.

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
        shard=options.part,
    )
    said = options.preprocess or options.image_flags
    if said and transform.current() is None and not options.bounds:
        raise OptionError(
            f"'{source.label}' holds arrays, which are fed as they are, so --preprocess and "
            "flags such as --mean do nothing: leave them out, or give images"
        )
    return Scan(
        data,
        model,
        tuple(sites),
        source,
        Batcher(model.inputs, options.batch_size),
        options,
        runtime_options,
        transform.current,
        adding,
        0 if adding else probes,
        shard_record(source, options),
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
