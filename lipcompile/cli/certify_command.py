"""lipcompile certify"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lipcompile.cli.evidence import Evidence, evidence_flags, stop_where_failed
from lipcompile.cli.flags import image_flags, label_flags, runtime_flags
from lipcompile.cli.long_work import Notes, journal_beside, parse_samples
from lipcompile.cli.options import image_from, runtime_from
from lipcompile.cli.show import format_flag
from lipcompile.errors import OptionError

if TYPE_CHECKING:
    from lipcompile.certifying.smoothing.options import SmoothingOptions

_SMOOTHING = ("sigma", "procedure", "n0", "n", "alpha", "seed")


@click.command("certify")
@click.argument("model")
@click.option(
    "--data",
    required=True,
    metavar="DATA",
    help="Labelled images: a folder of class folders, a CSV, or an .npz.",
)
@click.option(
    "--original", metavar="MODEL", help="Certify this model as well, and compare the two."
)
@click.option(
    "--method",
    type=click.Choice(["lipschitz", "smoothing"]),
    default="lipschitz",
    show_default=True,
    help="Bound the graph, or vote under Gaussian noise.",
)
@click.option(
    "--norm",
    type=click.Choice(["l2"]),
    default="l2",
    show_default=True,
    help="Of the perturbation.",
)
@click.option(
    "--eps",
    metavar="X",
    help="Radius to ask about, in pixel units in [0, 1], before normalisation. Also 36/255.",
)
@click.option(
    "--samples",
    default="500",
    show_default=True,
    metavar="N|all",
    help="At most N images, drawn by --data-seed.",
)
@label_flags
@click.option(
    "--sigma",
    type=float,
    metavar="X",
    help="Smoothing: standard deviation of the noise, in pixel units.",
)
@click.option(
    "--procedure",
    type=click.Choice(["certify", "predict", "test"]),
    help="Smoothing: bound radii, name classes, or only ask whether the radius is --eps.  "
    "[default: certify]",
)
@click.option(
    "--n0", type=int, metavar="N", help="Smoothing: draws that select a class.  [default: 100]"
)
@click.option(
    "--n", type=int, metavar="N", help="Smoothing: draws that count.  [default: 100000]"
)
@click.option(
    "--alpha",
    type=float,
    metavar="P",
    help="Smoothing: probability of a wrong answer, per image.  [default: 0.001]",
)
@click.option("--seed", type=int, metavar="N", help="Smoothing: of the noise.  [default: 0]")
@click.option(
    "--data-seed", type=int, default=0, show_default=True, help="Of the images drawn."
)
@click.option(
    "--batch-size", type=int, metavar="N", help="Images per run.  [default: by size]"
)
@runtime_flags
@click.option(
    "--min-certified-accuracy",
    type=float,
    metavar="SHARE",
    help="Gate: exit 1 where fewer images are certified at --eps.",
)
@click.option(
    "-o", "--output", metavar="JSON", help="Write the result as JSON to this file as well."
)
@click.option("--csv", metavar="FILE", help="Write a row per image and model.")
@click.option("--force", is_flag=True, help="Replace existing files.")
@evidence_flags("certify", outputs=("output", "csv"))
@click.option(
    "--journal",
    metavar="DIR",
    help="Smoothing: keep counts there.  [default: beside MODEL until the work is done]",
)
@image_flags
@format_flag
@click.option("--no-progress", is_flag=True, help="Do not say what was done so far.")
@click.option("-v", "--verbose", is_flag=True, help="Let ONNX Runtime's warnings through.")
@click.option("-q", "--quiet", is_flag=True, help="Print neither result nor progress.")
def command(
    model: str,
    data: str,
    original: str | None,
    method: str,
    evidence: Evidence,
    csv: str | None,
    force: bool,
    samples: str,
    journal: str | None,
    format_: str,
    no_progress: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Prove how far images can be perturbed before the class changes.

    By upper bounds of the Lipschitz constants of the deployed graph, which hold for sure; or
    for the model smoothed by Gaussian noise, with a stated probability. Radii are in l2, in
    pixel units in [0, 1]. A part of the model without a finite bound is refused by name.
    Smoothing goes on where it was when it was interrupted.

    \b
    Examples:
      lipcompile certify model.onnx --data test/ --eps 0.5
      lipcompile certify model.onnx --data test/ --method smoothing --sigma 0.25 --samples 100
    """
    from lipcompile.certifying.certify import certify

    runtime = runtime_from(flags)
    settings = [original, data, method, samples, *sorted(flags.items(), key=str)]
    smoothing = _smoothing(method, flags)
    folder = None
    if smoothing is not None:
        folder = Path(journal) if journal else journal_beside(model, "certify", settings)
    elif journal is not None:
        raise OptionError("--journal is about smoothing: add --method smoothing, or leave it")
    result = certify(
        model,
        data,
        original=original,
        method=method,  # type: ignore[arg-type]
        smoothing=smoothing,
        samples=parse_samples(samples),
        runtime=runtime,
        journal=folder,
        notify=None if quiet or no_progress else Notes(),
        **image_from(flags),
        **flags,
    )
    try:
        if csv is not None:
            result.save_csv(csv)
            evidence.wrote.append(Path(csv))
    finally:
        evidence.publish(result, format_, quiet)
    if folder is not None and journal is None:
        shutil.rmtree(folder, ignore_errors=True)
    stop_where_failed(result)


def _smoothing(method: str, flags: dict[str, Any]) -> SmoothingOptions | None:
    """Takes the flags of smoothing out of `flags`.

    Raises:
        OptionError: They are given for another method, or do not make sense.
    """
    from lipcompile.certifying.options import parse_radius
    from lipcompile.certifying.smoothing.options import SmoothingOptions

    found = {name: flags.pop(name) for name in _SMOOTHING}
    given = {name: value for name, value in found.items() if value is not None}
    if method != "smoothing":
        if given:
            raise OptionError(
                f"--{next(iter(given))} is about smoothing: add --method smoothing, or leave "
                "it out"
            )
        return None
    if "sigma" not in given:
        raise OptionError(
            "smoothing needs the standard deviation of its noise, in pixel units: add for "
            "example --sigma 0.25"
        )
    radius = parse_radius(flags["eps"]) if given.get("procedure") == "test" else None
    if given.get("procedure") == "test" and radius is None:
        raise OptionError("procedure test asks about a radius: add --eps")
    return SmoothingOptions(radius=radius, **given)
