"""lipcompile calibrate"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lipcompile.calibration.calibrate import calibrate
from lipcompile.cli.flags import DATA_HELP, running_flags, scanning_flags
from lipcompile.cli.options import scanning_options
from lipcompile.cli.show import progress, show
from lipcompile.model_io import beside


@click.command("calibrate")
@click.argument("model")
@click.option(
    "--calib",
    required=True,
    metavar="DATA",
    help=DATA_HELP,
)
@click.option(
    "--count-cr",
    metavar="LIST",
    help="Count for these c_r, comma-separated, how often each input feature of a layer is "
    "suppressed: a second scan.",
)
@click.option(
    "--table", metavar="JSON", help="With --count-cr: take the maxima from this table."
)
@click.option(
    "-o",
    "--output",
    metavar="JSON",
    help="Where to write the table.  [default: MODEL with the ending .table.json]",
)
@click.option("--force", is_flag=True, help="Replace an existing table.")
@click.option(
    "--shard",
    metavar="I/N",
    help="Read only every N-th sample, beginning with number I; `merge` joins the tables.",
)
@running_flags
@scanning_flags
def command(
    model: str,
    calib: str,
    count_cr: str | None,
    table: str | None,
    output: str | None,
    force: bool,
    no_progress: bool,
    format_: str,
    quiet: bool,
    **flags: Any,
) -> None:
    """Record activation maxima over calibration data.

    The table is one JSON file, bound to the model, the preprocessing and the data. `harden
    --table` uses it in place of a new scan, and `merge` joins tables of several shards.

    \b
    Example:
      lipcompile calibrate model.onnx --calib imagenet_subset/ -o table.json
    """
    selector, scan, runtime = scanning_options(flags)
    target = Path(output) if output is not None else beside(Path(model), ".table.json")
    with progress("calibrating", not (no_progress or quiet)) as update:
        result = calibrate(
            model,
            calib,
            count_cr=count_cr.split(",") if count_cr is not None else (),
            table=table,
            selector=selector,
            scan=scan,
            runtime=runtime,
            output=target,
            force=force,
            progress=update,
        )
    show(result, format_, quiet, wrote=target)
