"""lipcompile demo"""

from __future__ import annotations

from pathlib import Path

import click

from lipcompile.cli.show import format_flag, progress, show
from lipcompile.demo import run_demo


@click.command("demo")
@click.option(
    "--output-dir",
    default="lipcompile-demo",
    show_default=True,
    metavar="DIR",
    help="Where to write the hardened model and the report.",
)
@click.option("--force", is_flag=True, help="Replace an earlier demo's output.")
@format_flag
@click.option("--no-progress", is_flag=True, help="Show no progress.")
def command(output_dir: str, force: bool, format_: str, no_progress: bool) -> None:
    """Harden a bundled classifier, and measure it.

    A small residual network for Fashion-MNIST, adversarially trained, is hardened on 512
    bundled images; then its clean accuracy on 1,000 labelled images and its latency are
    compared with the original's, other settings are tried, and a report is written. CPU only,
    no network.
    """
    with progress("calibrating", not no_progress) as update:
        result = run_demo(Path(output_dir), force=force, progress=update)
    show(result, format_, quiet=False)
