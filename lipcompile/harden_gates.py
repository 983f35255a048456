"""Gates of `harden`: what has to hold before the model is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lipcompile import model_io, runtime
from lipcompile.calibration.probes import Probe
from lipcompile.checks import Agreement
from lipcompile.errors import OptionError
from lipcompile.findings import Finding
from lipcompile.gates import AGREEMENT, LATENCY, NO_SCORES, Gates
from lipcompile.measure import LatencyRatio, latency_ratio
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import RuntimeOptions

_PAIRS = 50  # of runs, for the latency ratio


def require_data(gates: Gates, calib: object) -> None:
    """Both gates run the models, and need something to run them on.

    Raises:
        OptionError: There is a gate, and no data.
    """
    set_ = {AGREEMENT: gates.min_agreement, LATENCY: gates.max_latency_ratio}
    for flag, value in set_.items():
        if value is not None and calib is None:
            raise OptionError(
                f"{flag} runs both models on calibration data, and there is none: add "
                f"--calib, or leave {flag} out"
            )


def judge(
    gates: Gates,
    source: LoadedModel,
    hardened: Any,
    probes: Sequence[Probe],
    agreement: Agreement | None,
    options: RuntimeOptions,
) -> tuple[tuple[Finding, ...], LatencyRatio | None]:
    """One finding per gate, and the latency ratio where a gate asks for it.

    Args:
        gates: What the user asks for.
        source: The original.
        hardened: The rendered model.
        probes: Samples of the calibration data.
        agreement: What `check_outputs` found on them.
        options: Providers and threads.

    Raises:
        OptionError: A gate on agreement, and no class scores to compare.
    """
    top1 = agreement.top1 if agreement is not None else None
    if gates.min_agreement is not None and top1 is None:
        raise OptionError(
            f"{AGREEMENT} compares the classes that both models give, and '{source.name}' "
            f"gives none ({NO_SCORES}): nothing was written; leave {AGREEMENT} out"
        )
    latency = None
    if gates.max_latency_ratio is not None:
        latency = _latency(source, hardened, one_sample(source, probes[0]), options)
    return (*gates.agreement(top1), *gates.latency(latency)), latency


def one_sample(source: LoadedModel, probe: Probe) -> Mapping[str, np.ndarray]:
    """The first sample of a run, or the whole run where the model fixes its batch."""
    return next(probe.divided(1, fixed=source.has_fixed_batch))


def _latency(
    source: LoadedModel,
    hardened: Any,
    feeds: Mapping[str, np.ndarray],
    options: RuntimeOptions,
) -> LatencyRatio:
    # Two sessions take turns: the idle threads of one would run against the other.
    quiet = replace(options, spinning=False)
    first, second = (
        runtime.open_session(model_io.serialize(proto), quiet, source.base_dir)
        for proto in (source.proto, hardened)
    )
    return latency_ratio(first, second, feeds, _PAIRS)
