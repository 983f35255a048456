"""harden(): the one place where the steps meet.

load -> find sites -> calibrate -> thresholds -> rewrite -> check -> save
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lipcompile import model_io
from lipcompile.calibration.calibrate import default_table
from lipcompile.calibration.scan import Probe, Progress, ScanOptions
from lipcompile.calibration.table import CalibrationTable
from lipcompile.checks import check_compaction, check_outputs, check_structure
from lipcompile.ensembles.options import EnsembleOptions
from lipcompile.ensembles.plan import Ensemble, again, plan_ensembles
from lipcompile.ensembles.trying import wrap_checked
from lipcompile.ensembles.wrapping import unwrap
from lipcompile.errors import ModelError, OptionError, OutputError
from lipcompile.forged import ForgedFunction, Hard, Target
from lipcompile.forging import Forging, forge, thresholds_of
from lipcompile.measuring import Measuring
from lipcompile.model_io import LoadedModel
from lipcompile.records import COLUMNS, SOURCE, is_hardened
from lipcompile.request import CrByLayer, Request, Variant, make_request
from lipcompile.results import HardenResult, layer_rows
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selection, Selector, find_sites, require_sites
from lipcompile.zeroing import Zeroing, zero


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
    selector: Selector | None = None,
    scan: ScanOptions | None = None,
    runtime: RuntimeOptions | None = None,
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
    put around either, or around the model as it is. Before anything
    is written, the result passes ONNX's checker (if the original did), keeps its signature,
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
        variant: "forged", "weight", or "none" for an ensemble alone. The default is "forged",
            and "none" where there is an `ensemble` and nothing that forging needs: no `cr`,
            `cr_by_layer`, `form` or `target`.
        form: "smooth" (default), "hard", "soft", or a `ForgedFunction`; none for "weight".
        target: Where the model will run: "portable" (default), "ort-cpu", "ort-cuda" or
            "tensorrt". It changes how a form is written, never what it computes.
        zero_rate: For "weight": a column is zeroed where at least this share of its inputs is
            suppressed, in (0, 1]; 1.0 by default.
        compact: For "weight": remove the channels that nothing reads any more.
        ensemble: Views of the image to average the scores over, such as "flip+shift:1", or
            `EnsembleOptions`: put around the model, hardened or not (Perez et al. 2021).
        selector: Which layers are wanted.
        scan: How to read the data.
        runtime: Execution providers and threads.
        output: The file to write; for a path the default is `<stem>.hardened.onnx` beside
            it, for other kinds nothing is written by default.
        save_table: Where to write the calibration table as well, if anywhere.
        force: Replace existing files; harden further layers of a hardened model.
        dry_run: Do everything but write.
        progress: Called with samples done and samples in all (None if unknown).

    Returns:
        The result; `result.model` is the hardened model in the kind that was handed in.

    Raises:
        LipCompileError: See `lipcompile.errors`. No model was written; on `Interrupted` the
            partial table was, and where writing the model failed, `save_table`.
    """
    request = make_request(
        cr, cr_by_layer, variant, form, target, zero_rate, compact, ensemble
    )
    _check_data(request, calib, table, save_table)
    how = scan or ScanOptions(), runtime or RuntimeOptions()
    targets = _Targets.named(model, output, save_table, dry_run)
    targets.check(force, model_io.paths_among(model, table, calib))
    task = _open(model, selector, how[1], force, request)
    beside = default_table(task.loaded.name, targets.model)
    measuring = Measuring(task.loaded, task.selection, calib, table, *how, beside, progress)
    measured, probes = measuring.run(request)
    done = _rewrite(task, request, measured)
    inside = task.loaded.proto if done is None else done.proto
    if isinstance(done, Zeroing) and done.uncompacted is not None:
        check_compaction(task.loaded, done.uncompacted, inside, probes, task.runtime)
    proto, ensemble_around = _wrap(task, request, inside, probes)
    check_structure(task.loaded, proto)
    agreement = check_outputs(task.loaded, proto, probes, task.runtime)
    files = targets.write(task.loaded, proto, measured)
    output_file = files[0] if files else None
    is_path = task.loaded.kind == "path"
    return HardenResult(
        model=output_file if is_path else model_io.give_back(task.loaded, proto),
        name=task.loaded.name,
        source=task.loaded.metadata.get(SOURCE, task.loaded.digest),
        output=output_file,
        files=files,
        request=request,
        table=measured,
        rows=layer_rows(task.selection, done),
        compaction=done.compaction if isinstance(done, Zeroing) else None,
        ensemble=ensemble_around,
        agreement=agreement,
        inlined=task.loaded.inlined,
        dry_run=dry_run,
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


def _rewrite(
    task: _Task, request: Request, table: CalibrationTable | None
) -> Forging | Zeroing | None:
    """Decides on every site and edits the graph; raises before the first edit."""
    if table is None:
        return None
    form = request.form or Hard()
    thresholds = thresholds_of(task.selection, table, request.c_r, form)
    if request.weight is not None:
        return zero(task.loaded, thresholds, request.weight, table, request.c_r)
    return forge(task.loaded, thresholds, form, request.target, table, request.c_r)


def _wrap(
    task: _Task, request: Request, proto: Any, probes: Sequence[Probe]
) -> tuple[Any, Ensemble | None]:
    """`proto` inside of the first ensemble that works, and which; as it is without one."""
    if not task.ensembles:
        return proto, None
    asked = request.ensemble.by if request.ensemble is not None else None
    return wrap_checked(task.loaded, proto, task.ensembles, probes, task.runtime, asked)


@dataclass(frozen=True, slots=True)
class _Task:
    """What is to be hardened, and how.

    Attributes:
        loaded: The model, without the ensemble that may have stood around it.
        selection: Its layers; none for variant "none".
        ensembles: What is put around the result, the cheapest first; nothing if empty.
        runtime: Providers and threads.
    """

    loaded: LoadedModel
    selection: Selection
    ensembles: tuple[Ensemble, ...]
    runtime: RuntimeOptions


def _open(
    model: object,
    selector: Selector | None,
    runtime: RuntimeOptions,
    force: bool,
    request: Request,
) -> _Task:
    loaded, around = unwrap(model_io.load(model))
    ensembles: tuple[Ensemble, ...] = () if around is None else again(around)
    if request.ensemble is not None:
        if around is not None:
            raise ModelError(
                f"'{loaded.name}' has an ensemble already ({around}), and its views would be "
                "viewed again: harden the original, or the result of 'lipcompile "
                "strip', with one --ensemble that names all views"
            )
        ensembles = plan_ensembles(loaded, request.ensemble)
    selection = find_sites(loaded.graph_ir, selector)
    if request.variant == "none":
        if selector not in (None, Selector()):
            raise OptionError(
                "variant none hardens no layer, so there is nothing to select: leave --rule, "
                "--include, --exclude and --op-types out, or add --variant forged"
            )
        return _Task(loaded, replace(selection, sites=(), refusals=()), ensembles, runtime)
    _check_not_hardened(loaded, force, request)
    require_sites(selection, loaded.name)
    request.c_r.assign(selection)  # before any long work
    return _Task(loaded, selection, ensembles, runtime)


def _check_not_hardened(loaded: LoadedModel, force: bool, request: Request) -> None:
    if not is_hardened(loaded.metadata):
        return
    if request.weight is not None or COLUMNS in loaded.metadata:
        raise ModelError(
            f"'{loaded.name}' is hardened already, and weights are edited in an original "
            "alone: harden that"
        )
    if not force:
        raise ModelError(
            f"'{loaded.name}' is hardened already: harden the original, or pass --force to "
            "forge layers that are not forged yet"
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
        """Writes the table, then the model; returns the model's files."""
        if self.table is not None and table is not None and not self.dry_run:
            table.save(self.table)
        if self.model is None or self.dry_run:
            return ()
        return model_io.save(loaded, proto, self.model)
