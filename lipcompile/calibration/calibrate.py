"""calibrate(): the table of a model and its data, whole or as far as Ctrl-C let it come."""

from __future__ import annotations

import os
from pathlib import Path

from lipcompile import model_io
from lipcompile.calibration.scan import Progress, Scan, ScanOptions, prepare_scan
from lipcompile.calibration.table import CalibrationTable
from lipcompile.errors import Interrupted
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selector, find_sites, require_sites


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
        model_io.check_output(target, force, model_io.paths_among(model, data))
    loaded = model_io.load(model)
    selection = find_sites(loaded.graph_ir, selector)
    require_sites(selection, loaded.name)
    running = prepare_scan(
        loaded, selection.sites, data, scan or ScanOptions(), runtime or RuntimeOptions()
    )
    run_scan(running, target or default_table(loaded.name), progress)
    if target is not None:
        running.table.save(target)
    return running.table


def run_scan(running: Scan, beside: Path, progress: Progress | None) -> None:
    """Runs the scan; Ctrl-C saves what it has measured so far."""
    try:
        running.run(progress)
    except KeyboardInterrupt as interrupt:
        if not running.samples:
            raise Interrupted(
                "interrupted before the first sample was measured"
            ) from interrupt
        path = beside.with_suffix(".partial.json")
        running.table.save(path)
        raise Interrupted(
            f"interrupted after {running.samples} samples; their table is '{path}': use it "
            "with --table, or run again"
        ) from interrupt


def default_table(model: str, output: Path | None = None) -> Path:
    """Where a table belongs when no one names a place: beside the output."""
    name = f"{Path(model).stem}.table.json"
    return output.with_name(name) if output is not None else Path(name)
