"""lipcompile harden"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import click

from lipcompile.abstaining.options import AbstainOptions, Kind, parse_radius
from lipcompile.cli.evidence import Evidence, evidence_flags
from lipcompile.cli.flags import DATA_HELP, running_flags, scanning_flags
from lipcompile.cli.options import scanning_options
from lipcompile.cli.show import progress
from lipcompile.compiler import harden
from lipcompile.ensembles.options import EnsembleOptions, Mean, Way
from lipcompile.errors import OptionError
from lipcompile.forged import FORMS, TARGETS, ForgedFunction, make_form
from lipcompile.rescaling.options import LipschitzOptions


@click.command("harden")
@click.argument("model")
@click.option(
    "--calib",
    metavar="DATA",
    help=DATA_HELP,
)
@click.option(
    "--table", metavar="JSON", help="Take the maxima from this table, and run no scan."
)
@click.option(
    "--cr",
    metavar="X",
    help="Relative threshold: c = X * largest activation. Also 2**-7, 1/128, 0.0078125.  "
    "[default: 2^-7]",
)
@click.option(
    "--cr-file",
    "cr_by_layer",
    metavar="FILE",
    help='c_r per layer, in TOML or JSON: lines like "layer4" = "2^-8".',
)
@click.option(
    "--form",
    type=click.Choice(list(FORMS)),
    help="The forged function.  [default: smooth]",
)
@click.option(
    "--variant",
    type=click.Choice(["forged", "weight", "none"]),
    help="Insert forged functions, zero weight columns, or neither.  [default: forged; none "
    "for --ensemble, --lipschitz or --abstain without --cr, --cr-file, --form or --target]",
)
@click.option(
    "--zero-rate",
    type=float,
    metavar="R",
    help="Variant weight: zero columns whose inputs are suppressed this often.  [default: 1]",
)
@click.option(
    "--compact", is_flag=True, help="Variant weight: remove channels that nothing reads then."
)
@click.option("--a", type=float, metavar="X", help="Steepness of smooth.  [default: 10]")
@click.option("--b", type=float, metavar="X", help="Where smooth opens, in c.  [default: 1]")
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    help="Where the model will run: how forms are written, not what they compute.  [default: "
    "portable]",
)
@click.option(
    "--ensemble",
    metavar="VIEWS",
    help="Average the scores over views of the image: flip, shift:K, scale:S, joined by + "
    "(both) and * (each of each).",
)
@click.option(
    "--ensemble-mean",
    type=click.Choice(get_args(Mean)),
    help="Of what: the scores as they are given, logits before a final Softmax, or "
    "probabilities.  [default: scores]",
)
@click.option(
    "--ensemble-by",
    type=click.Choice(get_args(Way)),
    help="Run the model on all views in one batch, or once for each.  [default: batch where "
    "the model allows it]",
)
@click.option(
    "--image-input", metavar="NAME", help="The input to view, where its shape does not tell."
)
@click.option(
    "--scores", metavar="NAME", help="The output with scores, where its shape does not tell."
)
@click.option(
    "--lipschitz",
    metavar="L",
    help="Rescale weights and biases so that the product bound of the logits (l2, per unit of "
    "pixels in [0, 1]) becomes L and no decision changes.",
)
@click.option(
    "--abstain",
    metavar="EPS",
    help="Let the model tell which answers no change of the image by at most EPS (l2, in "
    "pixel units) can change.",
)
@click.option(
    "--abstain-as",
    type=click.Choice(get_args(Kind)),
    help="By one more class, which wins where that is not certain, or by an output "
    "'certified'.  [default: logit]",
)
@click.option(
    "--abstain-top",
    type=int,
    metavar="K",
    help="The answer stays among the K highest scores.  [default: 1]",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Where to write the model.  [default: MODEL with the ending .hardened.onnx]",
)
@click.option("--save-table", metavar="JSON", help="Write the calibration table as well.")
@click.option("--save-result", metavar="JSON", help="Write the result as JSON as well.")
@click.option(
    "--min-agreement",
    type=float,
    metavar="SHARE",
    help="Gate: write no model and exit 1 where the top-1 agreement with the original, on "
    "calibration samples, is lower.",
)
@click.option(
    "--max-latency-ratio",
    type=float,
    metavar="X",
    help="Gate: write no model and exit 1 where the median latency ratio is larger.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Replace existing output; harden further layers of a hardened model.",
)
@click.option(
    "--dry-run", is_flag=True, help="Do everything but write the model and the table."
)
@running_flags
@evidence_flags("harden", outputs=("save_result",), elsewhere=("output", "save_table"))
@scanning_flags
def command(
    model: str,
    calib: str | None,
    form: str | None,
    a: float | None,
    b: float | None,
    no_progress: bool,
    format_: str,
    quiet: bool,
    evidence: Evidence,
    **flags: Any,
) -> None:
    """Harden a model: forged functions, zeroed weight columns, or an ensemble of views.

    Runs MODEL once over calibration data, records the largest activation in front of each
    selected layer, and puts a function there that suppresses activations below a threshold
    relative to it. With --ensemble, makes a classifier the mean over views of its image; with
    --lipschitz, gives it a product bound; with --abstain, lets it tell which answers are
    certified. The result has the same inputs, and the same outputs but for --abstain.

    \b
    Examples:
      lipcompile harden model.onnx --calib imagenet_subset/ --cr 2^-7
      lipcompile harden model.onnx --ensemble flip
      lipcompile harden model.onnx --lipschitz 1 --abstain 0.5 --mean 0.1307 --std 0.3081
    """
    scores = flags.pop("scores")
    bounded = _bounded(flags, scores)
    ensemble = _ensemble(flags, scores, bool(bounded))
    selector, scan, runtime = scanning_options(flags)
    with progress("calibrating", not (no_progress or quiet)) as update:
        result = harden(
            model,
            calib,
            form=_form(form, a, b),
            ensemble=ensemble,
            **bounded,
            selector=selector,
            scan=scan,
            runtime=runtime,
            progress=update,
            **{name: value for name, value in flags.items() if value is not None},
        )
    evidence.conclude(result, format_, quiet)


def _form(name: str | None, a: float | None, b: float | None) -> ForgedFunction | None:
    """The form that was named; a and b name one as well."""
    if name is None and a is None and b is None:
        return None
    return make_form(name or "smooth", a=a, b=b)


def _bounded(flags: dict[str, Any], scores: str | None) -> dict[str, Any]:
    """Takes the flags of rescaling and abstaining out of `flags`, as arguments of `harden`."""
    bound, eps = flags.pop("lipschitz"), flags.pop("abstain")
    given = {"kind": flags.pop("abstain_as"), "top": flags.pop("abstain_top")}
    given = {name: value for name, value in given.items() if value is not None}
    options: dict[str, Any] = {}
    if bound is not None:
        options["lipschitz"] = replace(LipschitzOptions.of(bound), scores=scores)
    if eps is not None:
        options["abstain"] = AbstainOptions(parse_radius(eps), scores=scores, **given)
    elif given:
        flag = "abstain-as" if "kind" in given else "abstain-top"
        raise OptionError(
            f"--{flag} is about an abstain head, and there is none: add --abstain"
        )
    return options


def _ensemble(
    flags: dict[str, Any], scores: str | None, bounded: bool
) -> EnsembleOptions | None:
    """Takes the flags of an ensemble out of `flags`; the layout serves calibration as well,
    and the scores what is `bounded`."""
    views = flags.pop("ensemble")
    given = {
        "mean": flags.pop("ensemble_mean"),
        "by": flags.pop("ensemble_by"),
        "image_input": flags.pop("image_input"),
        "scores": None if views is None and bounded else scores,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if views is None:
        if given:
            name = next(iter(given))
            flag = f"ensemble-{name}" if name in ("mean", "by") else name.replace("_", "-")
            raise OptionError(
                f"--{flag} is about an ensemble, and there is none: add --ensemble"
            )
        return None
    return EnsembleOptions(views, layout=flags["layout"], **given)
