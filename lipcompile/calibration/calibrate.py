"""calibrate(): the table of a model and its data, whole or as far as Ctrl-C let it come."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from lipcompile import model_io
from lipcompile.abstaining.wrapping import take_off
from lipcompile.calibration import runners
from lipcompile.calibration.counting import Counting, check_readable_twice, prepare_counting
from lipcompile.calibration.journal import Journal, beside
from lipcompile.calibration.options import ScanOptions
from lipcompile.calibration.preparing import prepare_scan
from lipcompile.calibration.scan import Progress, Scan
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
        data: A folder of images, a list file, .npy or .npz, .tar shards as WebDataset writes
            them, .parquet or .arrow files, a URL, an array, a dict of arrays, any iterable of
            them, an ONNX Runtime `CalibrationDataReader`, or "random:N".
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
            `output` and `Interrupted` names it. The same call goes on from it, or from what
            a killed process left.
    """
    c_rs = _parse_count_cr(count_cr, data, table)
    target = Path(output) if output is not None else None
    if target is not None:
        model_io.check_output(target, force, model_io.paths_among(model, data, table))
    loaded, _ = unwrap(take_off(model_io.load(model))[0])
    if target is not None:
        model_io.check_output(target, force, tuple(item.path for item in loaded.external))
    sites = find_sites(loaded.graph_ir, selector)
    require_sites(sites, loaded.name)
    how = scan or ScanOptions(), runtime or RuntimeOptions()
    place = beside(target or default_table(loaded.name))
    journal = Journal(place, resume=how[0].resume, active=target is not None)
    if table is None:
        running = prepare_scan(loaded, sites.sites, data, *how, probes=0)
        run_scan(running, journal, progress)
        result = running.table
    else:
        result = _given(table, loaded)
    if c_rs:
        counting = prepare_counting(loaded, sites.sites, result, c_rs, data, *how)
        run_counting(counting, journal, progress, again=table is None)
        result = counting.counted_table
    if target is not None:
        journal.become(result, target)
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


def run_scan(running: Scan, journal: Journal | None, progress: Progress | None) -> None:
    """Runs the scan, from where the journal has it; Ctrl-C saves what was measured so far,
    unless there is no journal."""
    kept = _keeping(running, journal, lambda: running.table)
    try:
        runners.run(running, progress, kept)
    except KeyboardInterrupt as interrupt:
        if not running.samples:
            raise Interrupted(
                "interrupted before the first sample was measured"
            ) from interrupt
        if journal is None:
            raise Interrupted(
                "interrupted while outputs were compared: nothing was written, run again"
            ) from interrupt
        journal.save(running.table)
        again = "run again to go on from there" if kept is not None else "run again"
        raise Interrupted(
            f"interrupted after {running.samples} samples; their table is '{journal.path}': "
            f"{again}, or use it with --table"
        ) from interrupt


def run_counting(
    counting: Counting, journal: Journal, progress: Progress | None, *, again: bool
) -> None:
    """Counts, from where the journal has it; on Ctrl-C maxima that were just measured, and
    counts that can be gone on from, are saved.

    Args:
        counting: What to run.
        journal: Where it stands.
        progress: As for `calibrate`.
        again: As for `Counting.run`.
    """
    kept = _keeping(counting.scan, journal, lambda: counting.table)
    try:
        counting.run(progress, kept, again=again)
    except KeyboardInterrupt as interrupt:
        if not again and kept is None:
            raise Interrupted(
                "interrupted while counting: nothing was written, run again"
            ) from interrupt
        journal.save(counting.table)
        again_or = "run again to go on from there, or " if kept is not None else ""
        raise Interrupted(
            f"interrupted while counting; the maxima are whole, in '{journal.path}': "
            f"{again_or}pass it as --table, and only the counting runs again"
        ) from interrupt


def _keeping(
    scan: Scan, journal: Journal | None, table: Callable[[], CalibrationTable]
) -> Callable[[], None] | None:
    """Takes up what the journal has of a scan, and gives what keeps the scan in it; None where
    there is no journal, or the scan cannot be gone on with."""
    key = scan.find_key() if journal is not None and journal.active else None
    if journal is None or key is None:
        return None
    scan.restore(journal, key)
    return lambda: journal.keep(scan.phase, key, scan.state, table)


def default_table(model: str, output: Path | None = None) -> Path:
    """Where a table belongs when no one names a place: beside the output."""
    name = f"{Path(model).stem}.table.json"
    return output.with_name(name) if output is not None else Path(name)
