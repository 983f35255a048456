"""lipcompile merge"""

from __future__ import annotations

from pathlib import Path

import click

from lipcompile import model_io
from lipcompile.calibration.merge import merge_tables
from lipcompile.calibration.table import load_table
from lipcompile.cli.show import format_flag, show


@click.command("merge")
@click.argument("tables", nargs=-1, required=True, metavar="TABLE...")
@click.option(
    "-o", "--output", required=True, metavar="JSON", help="Where to write the result."
)
@click.option("--force", is_flag=True, help="Replace an existing table.")
@click.option(
    "--allow-overlap",
    is_flag=True,
    help="Merge tables that share samples; these count twice.",
)
@format_flag
@click.option("-q", "--quiet", is_flag=True, help="Print no result.")
def command(
    tables: tuple[str, ...],
    output: str,
    force: bool,
    allow_overlap: bool,
    format_: str,
    quiet: bool,
) -> None:
    """Merge calibration tables of one model.

    The result is the table of all their samples together, in whatever order they are named.

    \b
    Example:
      lipcompile merge part1.json part2.json -o table.json
    """
    target = Path(output)
    model_io.check_output(target, force, tuple(map(Path, tables)))
    read = [load_table(Path(path)) for path in tables]
    merged = merge_tables(read, allow_overlap=allow_overlap)
    merged.save(target)
    show(merged, format_, quiet, wrote=target)
