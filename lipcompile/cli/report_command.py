"""lipcompile report"""

from __future__ import annotations

from pathlib import Path

import click

from lipcompile.cli.show import unheard


@click.command("report")
@click.argument("results", nargs=-1, required=True, metavar="RESULT...")
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="FILE",
    help="Where to write it: .html, .md or .json; may be repeated.  [default: Markdown on "
    "standard output]",
)
@click.option("--title", metavar="TEXT", help="Heading.  [default: the names of the models]")
@click.option("--force", is_flag=True, help="Replace existing files.")
def command(
    results: tuple[str, ...], outputs: tuple[str, ...], title: str | None, force: bool
) -> None:
    """Make one page of what harden, audit, certify, sweep and verify found.

    RESULT is the JSON that --save-result (harden) or -o (audit, certify, sweep, verify) wrote;
    one of each at most, all about one model. The page says the verdict first, holds all of its
    data, and loads nothing.

    \b
    Example:
      lipcompile report audit.json harden.json -o report.html -o comment.md
    """
    from lipcompile.report import read_report, write_report
    from lipcompile.report.write import check_outputs

    inputs, targets = [Path(one) for one in results], [Path(one) for one in outputs]
    check_outputs(targets, force=force, inputs=inputs)
    report = read_report(inputs, title)
    write_report(report, targets, force=force, inputs=inputs)
    with unheard():
        if not targets:
            click.echo(report.to_markdown(), nl=False)
        for target in targets:
            click.echo(f"wrote '{target}'")
        if targets:
            click.echo(f"verdict: {report.verdict.word}")
