"""harden(): the one place where the steps meet.

load -> find sites -> calibrate -> thresholds -> rewrite -> check -> gates -> save
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lipcompile import model_io
from lipcompile.abstaining.options import AbstainOptions
from lipcompile.calibration.calibrate import default_table
from lipcompile.calibration.journal import Journal, beside
from lipcompile.calibration.options import ScanOptions
from lipcompile.calibration.scan import Progress
from lipcompile.calibration.table import CalibrationTable
from lipcompile.compiling import compile_task, open_task
from lipcompile.ensembles.options import EnsembleOptions
from lipcompile.errors import OptionError, OutputError
from lipcompile.findings import failures
from lipcompile.forged import ForgedFunction, Target
from lipcompile.gates import Gates
from lipcompile.harden_gates import judge, require_data
from lipcompile.measuring import Measuring
from lipcompile.model_io import LoadedModel
from lipcompile.records import SOURCE
from lipcompile.request import CrByLayer, Request, Variant, make_request
from lipcompile.rescaling.options import LipschitzOptions
from lipcompile.results import HardenResult, layer_rows
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selector


def harden(
    model: object,
    calib: object = None,
    *,
    table: CalibrationTable | str | os.PathLike[str] | None = None,
    cr: float | str | None = None,
    cr_by_layer: CrByLayer = None,
    variant: Variant | None = None,
    form: ForgedFunction | str | None = None,
    target: Target | None = None,
    zero_rate: float | None = None,
    compact: bool = False,
    ensemble: EnsembleOptions | str | None = None,
    lipschitz: LipschitzOptions | float | str | None = None,
    abstain: AbstainOptions | float | str | None = None,
    selector: Selector | None = None,
    scan: ScanOptions | None = None,
    runtime: RuntimeOptions | None = None,
    min_agreement: float | None = None,
    max_latency_ratio: float | None = None,
    output: str | os.PathLike[str] | None = None,
    save_table: str | os.PathLike[str] | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> HardenResult:
    """Hardens a model after training (arXiv 2406.19622).

    At each site the threshold is c = c_r * max |x| over the calibration data. Variant "forged"
    puts a forged function in front of every selected linear layer; variant "weight" zeroes the
    weight columns whose inputs stay below the threshold, and adds no operator. An ensemble is
    put around either, or around the model as it is. `lipschitz` rescales weights and biases,
    so that the product bound becomes what is asked for and no decision changes; `abstain` adds
    a head that tells certified answers (arXiv 2102.08452). Before anything is written, the
    result passes ONNX's checker (if the original did), keeps its signature (but for the head),
    loads in ONNX Runtime and gives finite outputs on calibration data.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model` or graphsurgeon `Graph`. It is never
            modified.
        calib: Calibration data as for `calibrate`.
        table: A calibration table, or its path, in place of a new scan. With `calib`, up to
            256 samples are run to compare outputs; the thresholds come from the table.
        cr: Relative threshold c_r with 0 < c_r < 1, as a number or like "2^-7", which is the
            default.
        cr_by_layer: c_r of the layers whose name a pattern matches, or a TOML or JSON file of
            such; the others have `cr`.
        variant: "forged", "weight", or "none" for `ensemble`, `lipschitz` or `abstain` alone.
            The default is "forged", and "none" where there is one of these and nothing that
            forging needs: no `cr`, `cr_by_layer`, `form` or `target`.
        form: "smooth" (default), "hard", "soft", or a `ForgedFunction`; none for "weight".
        target: Where the model will run: "portable" (default), "ort-cpu", "ort-cuda" or
            "tensorrt". It changes how a form is written, never what it computes.
        zero_rate: For "weight": a column is zeroed where at least this share of its inputs is
            suppressed, in (0, 1]; 1.0 by default.
        compact: For "weight": remove the channels that nothing reads any more.
        ensemble: Views of the image to average the scores over, such as "flip+shift:1", or
            `EnsembleOptions`: put around the model, hardened or not (Perez et al. 2021).
        lipschitz: The product bound that the logits get, l2, per unit of pixels in [0, 1]; or
            `LipschitzOptions`. For positively homogeneous networks, without forged functions
            and without an ensemble.
        abstain: eps_l2 in pixel units within which certified answers cannot change; or
            `AbstainOptions`. Not with an ensemble, nor with form "hard".
        selector: Which layers are wanted.
        scan: How to read the data. What it says of images is what `lipschitz` and `abstain`
            take pixels to be, with or without data.
        runtime: Execution providers and threads.
        min_agreement: Gate: least top-1 agreement with the original on calibration samples, in
            [0, 1].
        max_latency_ratio: Gate: largest median of hardened over original latency, on one
            calibration sample.
        output: The file to write; for a path the default is `<stem>.hardened.onnx` beside
            it, for other kinds nothing is written by default.
        save_table: Where to write the calibration table as well, if anywhere.
        force: Replace existing files; harden further layers of a hardened model.
        dry_run: Do everything but write.
        progress: Called with samples done and samples in all (None if unknown).

    Returns:
        The result; `result.model` is the hardened model in the kind that was handed in. Where
        a gate does not hold it is None, no model was written, and `failed_gates` says why.

    Raises:
        LipCompileError: See `lipcompile.errors`. No model was written; on `Interrupted` the
            partial table was, and where writing the model failed, `save_table`.
    """
    request = make_request(
        cr,
        cr_by_layer,
        variant,
        form,
        target,
        zero_rate,
        compact,
        ensemble,
        lipschitz,
        abstain,
    )
    _check_data(request, calib, table, save_table)
    gates = Gates(min_agreement=min_agreement, max_latency_ratio=max_latency_ratio)
    require_data(gates, calib)
    bounds = request.lipschitz is not None or request.abstain is not None
    how = replace(scan or ScanOptions(), bounds=bounds), runtime or RuntimeOptions()
    targets = _Targets.named(model, output, save_table, dry_run)
    targets.check(force, model_io.paths_among(model, table, calib))
    task = open_task(model, selector, how[1], force, request, how[0])
    targets.check(force, tuple(item.path for item in task.loaded.external))
    place = beside(default_table(task.loaded.name, targets.model))
    journal = Journal(place, resume=how[0].resume, active=bool(targets.model) and not dry_run)
    measuring = Measuring(task.loaded, task.selection, calib, table, *how, journal, progress)
    measured, probes = measuring.run(request)
    compiled = compile_task(task, request, measured, probes)
    judged, latency = judge(
        gates, task.loaded, compiled.proto, probes, compiled.agreement, task.runtime
    )
    allowed = not failures(judged)
    files = targets.write(task.loaded, compiled.proto if allowed else None, measured)
    journal.remove()
    output_file = files[0] if files else None
    in_memory = allowed and task.loaded.kind != "path"
    return HardenResult(
        model=model_io.give_back(task.loaded, compiled.proto) if in_memory else output_file,
        name=task.loaded.name,
        source=task.loaded.metadata.get(SOURCE, task.loaded.digest),
        output=output_file,
        files=files,
        request=request,
        table=measured,
        rows=layer_rows(task.selection, compiled.done),
        compaction=compiled.compaction,
        ensemble=compiled.ensemble,
        rescaling=compiled.rescaling,
        abstention=compiled.abstention.head if compiled.abstention is not None else None,
        agreement=compiled.agreement,
        inlined=task.loaded.inlined,
        dry_run=dry_run,
        latency=latency,
        gates=judged,
    )


def _check_data(request: Request, calib: object, table: object, save_table: object) -> None:
    if request.variant == "none":
        for name, given in (("table", table), ("save-table", save_table)):
            if given is not None:
                raise OptionError(
                    f"variant none hardens no layer and has no table: leave --{name} out, or "
                    "add --variant forged"
                )
    elif calib is None and table is None:
        raise OptionError(
            "hardening needs activations: give calibration data (--calib) or a table (--table)"
        )


@dataclass(frozen=True, slots=True)
class _Targets:
    """Where the model and its table go, where they go anywhere."""

    model: Path | None
    table: Path | None
    dry_run: bool

    @classmethod
    def named(
        cls,
        model: object,
        output: str | os.PathLike[str] | None,
        save_table: str | os.PathLike[str] | None,
        dry_run: bool,
    ) -> _Targets:
        target = Path(output) if output is not None else None
        if target is None and isinstance(model, (str, os.PathLike)):
            target = model_io.beside(Path(model), ".hardened.onnx")
        return cls(target, Path(save_table) if save_table is not None else None, dry_run)

    def check(self, force: bool, inputs: tuple[Path, ...]) -> None:
        """Both can be written, and are two; a dry run replaces nothing, so they may exist."""
        for path in (self.model, self.table):
            if path is not None:
                model_io.check_output(path, force or self.dry_run, inputs)
        if self.model and self.table and self.model.resolve() == self.table.resolve():
            raise OutputError(
                f"the model and its calibration table would both be written to "
                f"'{self.model}': name another file with --save-table"
            )

    def write(
        self, loaded: LoadedModel, proto: Any, table: CalibrationTable | None
    ) -> tuple[Path, ...]:
        """Writes the table, then the model unless it is None; returns the model's files."""
        if self.table is not None and table is not None and not self.dry_run:
            table.save(self.table)
        if self.model is None or self.dry_run or proto is None:
            return ()
        return model_io.save(loaded, proto, self.model)
