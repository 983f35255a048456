"""lipcompile log-mlflow"""

from __future__ import annotations

import click

from lipcompile.cli.show import format_flag, show
from lipcompile.tracking import log_mlflow


@click.command("log-mlflow")
@click.argument("results", nargs=-1, required=True, metavar="RESULTS...")
@click.option(
    "--tracking-uri",
    metavar="URI",
    help="Address of the server, or a folder.  [default: MLFLOW_TRACKING_URI]",
)
@click.option(
    "--experiment",
    metavar="NAME",
    help="Made where it does not exist.  [default: MLFLOW_EXPERIMENT_NAME, or lipcompile]",
)
@click.option("--run-name", metavar="NAME", help="Of the run.  [default: chosen by MLflow]")
@click.option(
    "--artifact",
    "artifacts",
    multiple=True,
    metavar="FILE",
    help="A file to log with the run; may be repeated.",
)
@format_flag
@click.option("-q", "--quiet", is_flag=True, help="Print no result.")
def command(
    results: tuple[str, ...],
    tracking_uri: str | None,
    experiment: str | None,
    run_name: str | None,
    artifacts: tuple[str, ...],
    format_: str,
    quiet: bool,
) -> None:
    """Log results to MLflow.

    RESULTS are JSON files of harden, audit, certify, sweep and verify, at most one of each,
    about one model. They become one run: settings as parameters, numbers as metrics, the
    verdict and digests as tags, the files as artifacts.

    \b
    Example:
      lipcompile log-mlflow harden.json audit.json --tracking-uri http://localhost:5000
    """
    run = log_mlflow(
        results,
        tracking_uri=tracking_uri,
        experiment=experiment,
        run_name=run_name,
        artifacts=artifacts,
    )
    show(run, format_, quiet)
