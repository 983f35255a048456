"""calibrate(): the table of a model and its data, whole or as far as Ctrl-C let it come."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lipcompile import model_io
from lipcompile.calibration.counting import Counting, check_readable_twice, prepare_counting
from lipcompile.calibration.scan import Progress, Scan, ScanOptions, prepare_scan
from lipcompile.calibration.table import CalibrationTable, load_table
from lipcompile.ensembles.wrapping import unwrap
from lipcompile.errors import Interrupted, OptionError
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selector, find_sites, require_sites
from lipcompile.thresholds import parse_cr


def calibrate(
    model: object,
    data: object,
    *,
    count_cr: Sequence[float | str] = (),
    table: CalibrationTable | str | os.PathLike[str] | None = None,
    selector: Selector | None = None,
    scan: ScanOptions | None = None,
    runtime: RuntimeOptions | None = None,
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> CalibrationTable:
    """Records max |x| at every site over the data, and counts what thresholds suppress.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model` or graphsurgeon `Graph`.
        data: A folder of images, a list file, .npy or .npz, an array, a dict of arrays, any
            iterable of them, an ONNX Runtime `CalibrationDataReader`, or "random:N".
        count_cr: For each of these c_r a second scan counts, by input feature, how many
            elements are at most c_r * max |x| in magnitude (for the weight variant).
        table: With `count_cr`, a table (or its path) whose maxima are used as they are, so
            that only the counting scan runs; `data` may be one shard of its data.
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
    c_rs = _parse_count_cr(count_cr, data, table)
    target = Path(output) if output is not None else None
    if target is not None:
        model_io.check_output(target, force, model_io.paths_among(model, data, table))
    loaded, _ = unwrap(model_io.load(model))
    if target is not None:
        model_io.check_output(target, force, tuple(item.path for item in loaded.external))
    sites = find_sites(loaded.graph_ir, selector)
    require_sites(sites, loaded.name)
    how = scan or ScanOptions(), runtime or RuntimeOptions()
    beside = target or default_table(loaded.name)
    if table is None:
        running = prepare_scan(loaded, sites.sites, data, *how)
        run_scan(running, beside, progress)
        result = running.table
    else:
        result = _given(table, loaded)
    if c_rs:
        counting = prepare_counting(loaded, sites.sites, result, c_rs, data, *how)
        run_counting(counting, beside if table is None else None, progress)
        result = counting.counted_table
    if target is not None:
        result.save(target)
    return result


def _parse_count_cr(
    count_cr: Sequence[float | str], data: object, table: object | None
) -> tuple[float, ...]:
    if isinstance(count_cr, str):
        raise OptionError(
            f"count_cr = '{count_cr}' is one text, and many are expected: write "
            f"('{count_cr}',)"
        )
    if table is not None and not count_cr:
        raise OptionError(
            "a table takes the place of the scan for maxima, so that nothing is left to do: "
            "add --count-cr, or leave --table out"
        )
    if table is None and count_cr:
        check_readable_twice(data)
    return tuple(parse_cr(c_r) for c_r in count_cr)


def _given(
    table: CalibrationTable | str | os.PathLike[str], loaded: model_io.LoadedModel
) -> CalibrationTable:
    given = load_table(table) if isinstance(table, (str, os.PathLike)) else table
    given.check_model(loaded.digest, loaded.name)
    return given


def run_scan(running: Scan, beside: Path | None, progress: Progress | None) -> None:
    """Runs the scan; Ctrl-C saves what it has measured so far, unless `beside` is None."""
    try:
        running.run(progress)
    except KeyboardInterrupt as interrupt:
        if not running.samples:
            raise Interrupted(
                "interrupted before the first sample was measured"
            ) from interrupt
        if beside is None:
            raise Interrupted(
                "interrupted while outputs were compared: nothing was written, run again"
            ) from interrupt
        path = beside.with_suffix(".partial.json")
        running.table.save(path)
        raise Interrupted(
            f"interrupted after {running.samples} samples; their table is '{path}': use it "
            "with --table, or run again"
        ) from interrupt


def run_counting(counting: Counting, beside: Path | None, progress: Progress | None) -> None:
    """Counts; on Ctrl-C maxima that were just measured are saved, and given ones stay."""
    try:
        counting.run(progress, again=beside is not None)
    except KeyboardInterrupt as interrupt:
        if beside is None:
            raise Interrupted(
                "interrupted while counting: nothing was written, run again"
            ) from interrupt
        path = beside.with_suffix(".partial.json")
        counting.table.save(path)
        raise Interrupted(
            f"interrupted while counting; the maxima are whole, in '{path}': pass it as "
            "--table, and only the counting runs again"
        ) from interrupt


def default_table(model: str, output: Path | None = None) -> Path:
    """Where a table belongs when no one names a place: beside the output."""
    name = f"{Path(model).stem}.table.json"
    return output.with_name(name) if output is not None else Path(name)
