"""sweep(): the one place where the steps meet.

read the data -> calibrate once -> build and measure every setting -> attack those within the
limits -> choose -> measure the chosen one on the other part
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

from lipcompile import model_io
from lipcompile.calibration.options import ScanOptions
from lipcompile.calibration.scan import Progress
from lipcompile.ensembles.options import EnsembleOptions
from lipcompile.errors import OptionError
from lipcompile.findings import failures
from lipcompile.forged import FORMS
from lipcompile.gates import Gates
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selector
from lipcompile.sweeping.attacking import DEFAULT_IMAGES, Notify, checked_attacks
from lipcompile.sweeping.choosing import Candidate, explain, limits
from lipcompile.sweeping.comparing import Comparison
from lipcompile.sweeping.opening import DataOptions
from lipcompile.sweeping.preparing import Preparing
from lipcompile.sweeping.results import Confirmation, SweepResult
from lipcompile.sweeping.settings import DEFAULT_CR, make_settings
from lipcompile.sweeping.writing import Targets


def sweep(
    model: object,
    calib: object,
    data: object,
    *,
    cr: str | float | Sequence[str | float] = DEFAULT_CR,
    forms: Sequence[str] = tuple(FORMS),
    variants: Sequence[str] = ("forged", "weight"),
    zero_rate: float = 1.0,
    ensembles: Sequence[str | EnsembleOptions] = (),
    per_layer: bool = False,
    eps: float | str | None = None,
    norm: Literal["linf", "l2"] = "linf",
    attacks: str = "fast",
    attack_samples: int = DEFAULT_IMAGES,
    device: str = "cpu",
    seed: int = 0,
    max_accuracy_drop: float | None = None,
    max_latency_ratio: float | None = None,
    min_agreement: float | None = None,
    min_robust_accuracy: float | None = None,
    reading: DataOptions | None = None,
    selector: Selector | None = None,
    scan: ScanOptions | None = None,
    runtime: RuntimeOptions | None = None,
    output: str | os.PathLike[str] | None = None,
    save_table: str | os.PathLike[str] | None = None,
    save_cr: str | os.PathLike[str] | None = None,
    force: bool = False,
    journal: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> SweepResult:
    """Measures many settings on one calibration, and chooses the one to ship by stated rules.

    The data is divided by `reading.seed` into two parts. Settings are compared and chosen on
    one (`lipcompile.sweeping.choosing` has the rules); what is reported of the chosen one was
    measured on the other.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model` or graphsurgeon `Graph`.
        calib: Calibration data as for `calibrate`, which can be read twice.
        data: Labelled images as for `audit`; or, with `DataOptions(labelled=False)`, anything
            that `calibrate` takes.
        cr: Relative thresholds: "2^-9:2^-5" for every power of two between, or a list.
        forms: "smooth", "hard", "soft": each at every c_r, for variant "forged".
        variants: "forged", "weight", or both.
        zero_rate: For variant "weight", as in `harden`.
        ensembles: Views of the image, as in `harden`; each is tried around the original.
        per_layer: Search for c_r per layer as well, greedily, from the strongest form that is
            admitted.
        eps: Attack every admitted setting with this radius, in pixel units in [0, 1]; None
            runs no attack, and then nothing is known about robustness.
        norm: "linf" or "l2".
        attacks: "fast" or "standard", as in `audit`.
        attack_samples: At most so many images of the choosing part for each setting; the
            chosen one is attacked on the whole reporting part.
        device: Where torch runs.
        seed: Of the attacks.
        max_accuracy_drop: Largest loss of clean accuracy, in [0, 1]; 0.01 by default. Given,
            it is a gate on the reporting part as well; so are the next three.
        max_latency_ratio: Largest median of hardened over original latency.
        min_agreement: Least share of samples with the original's class, in [0, 1].
        min_robust_accuracy: Least worst-case accuracy on the reporting part; needs `eps`.
        reading: How `data` is read.
        selector: Which layers are wanted.
        scan: How calibration data is read; its preprocessing serves `data` as well.
        runtime: Execution providers and threads.
        output: Where to write the chosen model, if anywhere; not where a gate fails, or the
            attacks on the reporting part find it worse, or masked.
        save_table: Where to write the calibration table, if anywhere.
        save_cr: Where to write c_r per layer of the chosen setting as TOML, if anywhere.
        force: Replace existing files.
        journal: Folder for intermediate results of attacks, from which an interrupted sweep
            goes on, and through which settings share the attacks on the original.
        progress: Called while calibration data is read, as for `calibrate`.
        notify: Told what was done, line by line.

    Returns:
        The result; gates that do not hold, and that no setting was admitted, are in
        `failed_gates`.

    Raises:
        LipCompileError: See `lipcompile.errors`.
    """
    begin = time.perf_counter()
    settings = make_settings(cr, forms, variants, zero_rate, ensembles)
    how, options = reading or DataOptions(), runtime or RuntimeOptions()
    asked = (max_accuracy_drop, max_latency_ratio, min_agreement, min_robust_accuracy)
    gates = limits(how.labelled, *asked)
    attacking = checked_attacks(
        eps, norm, attacks, attack_samples, device, seed, options.threads, how, journal
    )
    if attacking is None and min_robust_accuracy is not None:
        raise OptionError("--min-robust-accuracy needs attacks: add --eps")
    targets = Targets.named(output, save_table, save_cr)
    targets.check(force, model_io.paths_among(model, calib, data))
    check = functools.partial(targets.check, force)
    preparing = Preparing(how, scan or ScanOptions(), options, progress, check)
    bench, parts = preparing.run(model, calib, data, settings, selector)
    with attacking.sharing() if attacking is not None else nullcontext() as shared:
        comparison = Comparison(bench, parts, gates, shared, notify or (lambda _: None))
        for setting in settings:
            comparison.measure(setting)
        if per_layer:
            comparison.search_layers([x.c_r for x in settings if x.c_r is not None])
        best = comparison.best()
        chosen = best if best is not None and comparison.is_better(best) else None
        why = explain(best, comparison.candidates, attacked=attacking is not None)
        confirmed = comparison.confirm(chosen) if chosen is not None else None
    if max_accuracy_drop is None:  # the default chooses, and stops no pipeline
        gates = replace(gates, max_accuracy_drop=None, min_agreement=min_agreement)
    failed = _failed(gates, comparison.candidates, chosen, confirmed, why)
    targets.write_table(bench)
    command = None
    if chosen is not None and confirmed is not None and not confirmed.refuted:
        command = targets.write(bench, chosen.trial.setting, calib, keep_model=not failed)
    seconds = time.perf_counter() - begin
    return comparison.result(chosen, why, confirmed, command, seconds, failed, gates, how.seed)


def _failed(
    gates: Gates,
    candidates: Sequence[Candidate],
    chosen: Candidate | None,
    confirmed: Confirmation | None,
    why: str,
) -> tuple[str, ...]:
    """Why a pipeline must stop; nothing where it may go on."""
    if all(candidate.obstacle is not None for candidate in candidates):
        return (why,)
    if chosen is None or confirmed is None:
        return (why,) if gates.min_robust_accuracy is not None else ()
    return failures(confirmed.judged(gates))
