"""harden(): the one place where the steps meet.

load -> find sites -> calibrate -> thresholds -> rewrite -> check -> save
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lipcompile import model_io
from lipcompile.calibration.calibrate import default_table, run_scan
from lipcompile.calibration.scan import (
    PROBE_SAMPLES,
    Probe,
    Progress,
    ScanOptions,
    prepare_scan,
)
from lipcompile.calibration.table import CalibrationTable, load_table
from lipcompile.checks import check_outputs, check_structure
from lipcompile.errors import ModelError, OptionError, OutputError
from lipcompile.forged import ForgedFunction, Target, check_target, make_form
from lipcompile.forging import forge, thresholds_of
from lipcompile.layer_cr import LayerCr, read_cr_file
from lipcompile.model_io import LoadedModel
from lipcompile.provenance import is_hardened
from lipcompile.results import HardenResult, layer_rows
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selection, Selector, find_sites, require_sites
from lipcompile.thresholds import parse_cr


def harden(
    model: object,
    calib: object = None,
    *,
    table: CalibrationTable | str | os.PathLike[str] | None = None,
    cr: float | str = 2**-7,
    cr_by_layer: Mapping[str, float | str] | str | os.PathLike[str] | None = None,
    form: ForgedFunction | str = "smooth",
    target: Target = "portable",
    selector: Selector | None = None,
    scan: ScanOptions | None = None,
    runtime: RuntimeOptions | None = None,
    output: str | os.PathLike[str] | None = None,
    save_table: str | os.PathLike[str] | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> HardenResult:
    """Inserts forged functions in front of the selected linear layers (arXiv 2406.19622).

    At each site the threshold is c = c_r * max |x| over the calibration data. Before anything
    is written, the result passes ONNX's checker (if the original did), keeps its signature,
    loads in ONNX Runtime and gives finite outputs on calibration data.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model` or graphsurgeon `Graph`. It is never
            modified.
        calib: Calibration data as for `calibrate`.
        table: A calibration table, or its path, in place of a new scan. With `calib`, up to
            256 samples are run to compare outputs; the thresholds come from the table.
        cr: Relative threshold c_r with 0 < c_r < 1, as a number or like "2^-7".
        cr_by_layer: c_r of the layers whose name a pattern matches, or a TOML or JSON file of
            such; the others have `cr`.
        form: "smooth", "hard", "soft", or a `ForgedFunction`.
        target: Where the model will run: "portable", "ort-cpu", "ort-cuda" or "tensorrt". It
            changes how a form is written, never what it computes.
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
    c_r = _layer_cr(cr, cr_by_layer)
    target = check_target(target)
    chosen = make_form(form) if isinstance(form, str) else form
    if calib is None and table is None:
        raise OptionError(
            "hardening needs activations: give calibration data (--calib) or a table (--table)"
        )
    targets = _Targets.named(model, output, save_table, dry_run)
    targets.check(force, model_io.paths_among(model, table, calib))
    task = _open(model, selector, runtime or RuntimeOptions(), force)
    c_r.assign(task.selection)  # before any long work
    measured, probes = _measure(task, calib, table, scan or ScanOptions(), targets, progress)
    thresholds = thresholds_of(task.selection, measured, c_r, chosen)
    forging = forge(task.loaded, thresholds, chosen, target, measured, c_r)
    proto = forging.proto
    check_structure(task.loaded, proto)
    agreement = check_outputs(task.loaded, proto, probes, task.runtime)
    files = targets.write(task.loaded, proto, measured)
    output_file = files[0] if files else None
    is_path = task.loaded.kind == "path"
    return HardenResult(
        model=output_file if is_path else model_io.give_back(task.loaded, proto),
        name=task.loaded.name,
        output=output_file,
        files=files,
        form=chosen,
        c_r=c_r,
        target=target,
        table=measured,
        rows=layer_rows(task.selection, forging.plans),
        agreement=agreement,
        inlined=task.loaded.inlined,
        dry_run=dry_run,
    )


def _layer_cr(
    cr: float | str, by_layer: Mapping[str, float | str] | str | os.PathLike[str] | None
) -> LayerCr:
    if isinstance(by_layer, (str, os.PathLike)):
        by_layer = read_cr_file(Path(by_layer))
    patterns = {pattern: parse_cr(value) for pattern, value in (by_layer or {}).items()}
    return LayerCr(parse_cr(cr), patterns)


@dataclass(frozen=True, slots=True)
class _Task:
    """What is to be hardened, and how."""

    loaded: LoadedModel
    selection: Selection
    runtime: RuntimeOptions


def _open(
    model: object,
    selector: Selector | None,
    runtime: RuntimeOptions,
    force: bool,
) -> _Task:
    loaded = model_io.load(model)
    if is_hardened(loaded.metadata) and not force:
        raise ModelError(
            f"'{loaded.name}' is hardened already: harden the original, or pass --force to "
            "forge layers that are not forged yet"
        )
    selection = find_sites(loaded.graph_ir, selector)
    require_sites(selection, loaded.name)
    return _Task(loaded, selection, runtime)


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
        self, loaded: LoadedModel, proto: Any, table: CalibrationTable
    ) -> tuple[Path, ...]:
        """Writes the table, then the model; returns the model's files."""
        if self.table is not None and not self.dry_run:
            table.save(self.table)
        if self.model is None or self.dry_run:
            return ()
        return model_io.save(loaded, proto, self.model)


def _measure(
    task: _Task,
    calib: object,
    table: CalibrationTable | str | os.PathLike[str] | None,
    options: ScanOptions,
    targets: _Targets,
    progress: Progress | None,
) -> tuple[CalibrationTable, Sequence[Probe]]:
    """The table, given or scanned, and probes of the data where there is any."""
    loaded, sites = task.loaded, task.selection.sites
    given = load_table(Path(table)) if isinstance(table, (str, os.PathLike)) else table
    if given is not None:
        given.check_model(loaded.digest, loaded.name)
        given.require(site.tensor for site in sites)
        if calib is None:
            return given, ()
        enough = min(options.samples or PROBE_SAMPLES, PROBE_SAMPLES)
        options = replace(options, samples=enough)
    running = prepare_scan(loaded, sites, calib, options, task.runtime)
    run_scan(running, default_table(loaded.name, targets.model), progress)
    return given or running.table, running.probe
