"""harden() and calibrate(): the one place where the steps meet.

load -> find sites -> calibrate -> thresholds -> rewrite -> check -> save
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lipcompile import model_io
from lipcompile.calibration.scan import Probe, Progress, Scan, ScanOptions, prepare_scan
from lipcompile.calibration.table import CalibrationTable, load_table
from lipcompile.checks import check_outputs, check_structure
from lipcompile.errors import DataError, Interrupted, ModelError, OptionError
from lipcompile.forged import ForgedFunction, make_form
from lipcompile.linear_layers import LinearLayer
from lipcompile.model_io import LoadedModel
from lipcompile.ops import MARK
from lipcompile.passes.insert_forged import InsertForged, SitePlan, plan_site
from lipcompile.provenance import is_hardened, make_provenance
from lipcompile.results import HardenResult, Inspection, layer_rows
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selection, Selector, Site, find_sites, require_sites
from lipcompile.thresholds import parse_cr


def inspect(model: object, *, selector: Selector | None = None) -> Inspection:
    """Lists every linear layer with the decision and its reason; edits nothing.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model` or graphsurgeon `Graph`.
        selector: Which layers are wanted.

    Raises:
        ModelError: The model cannot be read.
        SelectionError: A pattern matches nothing.
    """
    loaded = model_io.load(model)
    selection = find_sites(loaded.graph_ir, selector)
    own = {k: v for k, v in loaded.metadata.items() if k.startswith(f"{MARK}.")}
    return Inspection(
        loaded.name,
        loaded.digest,
        loaded.opset,
        selection.rule,
        layer_rows(selection),
        loaded.inlined,
        own,
    )


def calibrate(
    model: object,
    data: object,
    *,
    selector: Selector | None = None,
    scan: ScanOptions | None = None,
    runtime: RuntimeOptions | None = None,
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> CalibrationTable:
    """Records max |x| at every site over the data.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model` or graphsurgeon `Graph`.
        data: A folder of images, a list file, .npy or .npz, an array, a dict of arrays, any
            iterable of them, an ONNX Runtime `CalibrationDataReader`, or "random:N".
        selector: Which layers are wanted.
        scan: How to read the data.
        runtime: Execution providers and threads.
        output: Where to write the table as JSON, if anywhere.
        force: Replace an existing `output`.
        progress: Called with samples done and samples in all (None if unknown).

    Raises:
        LipCompileError: See `lipcompile.errors`; on Ctrl-C the partial table is saved beside
            `output` and `Interrupted` names it.
    """
    target = Path(output) if output is not None else None
    if target is not None:
        model_io.check_output(target, force, _paths(model))
    loaded = model_io.load(model)
    selection = find_sites(loaded.graph_ir, selector)
    require_sites(selection, loaded.name)
    running = prepare_scan(
        loaded, selection.sites, data, scan or ScanOptions(), runtime or RuntimeOptions()
    )
    _run(running, target or _default_table(loaded), progress)
    if target is not None:
        running.table.save(target)
    return running.table


def harden(
    model: object,
    calib: object = None,
    *,
    table: CalibrationTable | str | os.PathLike[str] | None = None,
    cr: float | str = 2**-7,
    form: ForgedFunction | str = "smooth",
    selector: Selector | None = None,
    scan: ScanOptions | None = None,
    runtime: RuntimeOptions | None = None,
    output: str | os.PathLike[str] | None = None,
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
        calib: Calibration data as for `calibrate`. With `table`, only used to compare outputs.
        table: A calibration table, or its path, in place of a new scan.
        cr: Relative threshold c_r with 0 < c_r < 1, as a number or like "2^-7".
        form: "smooth", "hard", or a `ForgedFunction`.
        selector: Which layers are wanted.
        scan: How to read the data.
        runtime: Execution providers and threads.
        output: The file to write; for a path the default is `<stem>.hardened.onnx` beside
            it, for other kinds nothing is written by default.
        force: Replace an existing `output`; harden layers of a model that is hardened already.
        dry_run: Do everything but write.
        progress: Called with samples done and samples in all (None if unknown).

    Returns:
        The result; `result.model` is the hardened model in the kind that was handed in.

    Raises:
        LipCompileError: See `lipcompile.errors`. Nothing was written, or, on `Interrupted`,
            only the partial table.
    """
    c_r = parse_cr(cr)
    chosen = make_form(form) if isinstance(form, str) else form
    if calib is None and table is None:
        raise OptionError(
            "hardening needs activations: give calibration data (--calib) or a table (--table)"
        )
    target = _output_path(model, output)
    if target is not None and not dry_run:
        model_io.check_output(target, force, _paths(model, table))
    loaded = model_io.load(model)
    if is_hardened(loaded.metadata) and not force:
        raise ModelError(
            f"'{loaded.name}' is hardened already: harden the original, or pass --force to "
            "forge layers that are not forged yet"
        )
    selection = find_sites(loaded.graph_ir, selector)
    require_sites(selection, loaded.name)
    options, providers = scan or ScanOptions(), runtime or RuntimeOptions()
    measured, probes = _measure(
        loaded, selection, calib, table, options, providers, target, progress
    )
    plans = _plan(loaded, selection.sites, measured, chosen, c_r)
    proto = _rewrite(loaded, plans, measured, chosen, c_r)
    check_structure(loaded, proto)
    agreement = check_outputs(loaded, proto, probes, providers)
    rows = layer_rows(selection, plans)
    files: tuple[Path, ...] = ()
    if target is not None and not dry_run:
        files = model_io.save(loaded, proto, target)
    given = (files[0] if files else None) if loaded.kind == "path" else None
    return HardenResult(
        model=given if loaded.kind == "path" else model_io.give_back(loaded, proto),
        name=loaded.name,
        output=files[0] if files else None,
        files=files,
        form=chosen,
        c_r=c_r,
        table=measured,
        rows=rows,
        agreement=agreement,
        inlined=loaded.inlined,
        dry_run=dry_run,
    )


def _measure(
    loaded: LoadedModel,
    selection: Selection,
    calib: object,
    table: CalibrationTable | str | os.PathLike[str] | None,
    options: ScanOptions,
    providers: RuntimeOptions,
    target: Path | None,
    progress: Progress | None,
) -> tuple[CalibrationTable, Sequence[Probe]]:
    """The table, given or scanned, and probes of the data where there is any."""
    given = (
        table
        if isinstance(table, CalibrationTable) or table is None
        else load_table(Path(table))
    )
    if given is not None:
        given.check_model(loaded.digest, loaded.name)
        for site in selection.sites:
            given[site.tensor]
        if calib is None:
            return given, ()
    running = prepare_scan(loaded, selection.sites, calib, options, providers)
    _run(running, target or _default_table(loaded), progress)
    return given or running.table, running.probe


def _run(running: Scan, beside: Path, progress: Progress | None) -> None:
    """Runs the scan; Ctrl-C saves what it has measured so far."""
    try:
        running.run(progress)
    except KeyboardInterrupt as interrupt:
        if not running.samples:
            raise Interrupted(
                "interrupted before the first sample was measured"
            ) from interrupt
        path = beside.with_name(f"{beside.name}.partial.json")
        running.table.save(path)
        raise Interrupted(
            f"interrupted after {running.samples} samples; their table is '{path}': use it "
            "with --table, or run again"
        ) from interrupt


def _plan(
    loaded: LoadedModel,
    sites: Sequence[Site],
    table: CalibrationTable,
    form: ForgedFunction,
    c_r: float,
) -> tuple[SitePlan, ...]:
    plans = []
    for site in sites:
        absmax = table[site.tensor]
        if absmax == 0.0:
            raise _dead(site, table)
        try:
            plans.append(plan_site(site, absmax, c_r * absmax, form, loaded.opset))
        except DataError as error:
            raise DataError(f"{_name(site.layers[0])}: {error}") from error
    return tuple(plans)


def _dead(site: Site, table: CalibrationTable) -> DataError:
    layer = site.layers[0]
    return DataError(
        f"{_name(layer)}: calibration maximum is 0.0 over {table.data.samples} samples, so "
        f"the threshold would be 0; the input '{site.tensor}' may be dead: pass --exclude "
        f"'{layer.name}', or calibrate on other data"
    )


def _name(layer: LinearLayer) -> str:
    return f"layer '{layer.name}' ({layer.node.op_type})"


def _rewrite(
    loaded: LoadedModel,
    plans: tuple[SitePlan, ...],
    table: CalibrationTable,
    form: ForgedFunction,
    c_r: float,
) -> Any:
    forged = InsertForged(form, plans)(loaded.graph_ir)
    metadata = make_provenance(
        loaded.digest, table, form, c_r, plans, forged, loaded.metadata, loaded.inlined
    )
    return model_io.render(loaded.proto, loaded.graph_ir, metadata)


def _output_path(model: object, output: str | os.PathLike[str] | None) -> Path | None:
    if output is not None:
        return Path(output)
    if isinstance(model, (str, os.PathLike)):
        return Path(model).with_suffix(".hardened.onnx")
    return None


def _default_table(loaded: LoadedModel) -> Path:
    return Path(f"{Path(loaded.name).stem}.table.json")


def _paths(*given: object) -> tuple[Path, ...]:
    return tuple(Path(item) for item in given if isinstance(item, (str, os.PathLike)))
