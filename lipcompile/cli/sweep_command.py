"""lipcompile sweep"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from lipcompile.cli.evidence import Evidence, evidence_flags, stop_where_failed
from lipcompile.cli.flags import DATA_HELP, attack_flags, label_flags, scanning_flags
from lipcompile.cli.long_work import Notes, journal_beside, parse_samples
from lipcompile.cli.options import scanning_options
from lipcompile.cli.show import progress
from lipcompile.ensembles.options import EnsembleOptions
from lipcompile.errors import OptionError
from lipcompile.forged import FORMS

_VARIANTS = ("forged", "weight")
_WRITING = ("force", "save_model", "save_table", "save_cr", "verbose")


@click.command("sweep")
@click.argument("model")
@click.option(
    "--calib",
    required=True,
    metavar="DATA",
    help=DATA_HELP,
)
@click.option(
    "--data",
    required=True,
    metavar="DATA",
    help="Labelled images: a folder of class folders, a CSV, or an .npz; with --unlabelled, "
    "whatever --calib takes.",
)
@click.option(
    "--unlabelled",
    is_flag=True,
    help="There are no labels: compare with the original's answers.",
)
@click.option(
    "--cr",
    default="2^-9:2^-5",
    show_default=True,
    metavar="LIST",
    help="Relative thresholds: A:B for every power of two between, or a comma-separated list.",
)
@click.option(
    "--forms",
    metavar="LIST",
    help=f"Forged functions to try.  [default: {','.join(FORMS)}]",
)
@click.option(
    "--variants",
    metavar="LIST",
    help="Forged functions, zeroed weight columns, or both.  [default: "
    f"{','.join(_VARIANTS)}]",
)
@click.option(
    "--zero-rate",
    type=float,
    default=1.0,
    show_default=True,
    metavar="R",
    help="Variant weight: zero columns whose inputs are suppressed this often.",
)
@click.option(
    "--ensembles",
    metavar="LIST",
    help="Ensembles of views to try as well, such as flip,flip+shift:1.",
)
@click.option("--per-layer", is_flag=True, help="Search for c_r per layer, too (greedy).")
@click.option(
    "--eps",
    metavar="X",
    help="Attack every admitted setting with this radius, in pixel units in [0, 1], before "
    "normalisation. Also 8/255.  [default: no attack]",
)
@attack_flags
@click.option(
    "--attack-samples",
    type=int,
    default=100,
    show_default=True,
    metavar="N",
    help="Images per setting that are attacked; the chosen one is attacked on all of the "
    "reporting part.",
)
@click.option("--attack-seed", type=int, default=0, show_default=True, help="Of the attacks.")
@click.option(
    "--max-accuracy-drop",
    type=float,
    metavar="SHARE",
    help="Only settings that lose no more clean accuracy; given, also a gate on the reporting "
    "part.  [default: 0.01]",
)
@click.option(
    "--max-latency-ratio",
    type=float,
    metavar="X",
    help="The same for the median latency ratio.",
)
@click.option(
    "--min-agreement",
    type=float,
    metavar="SHARE",
    help="The same for the agreement with the original.",
)
@click.option(
    "--min-robust-accuracy",
    type=float,
    metavar="SHARE",
    help="Gate: exit 1 where the chosen setting's worst case on the reporting part is lower, "
    "masked, or where none is chosen.",
)
@click.option(
    "--data-samples",
    default="1000",
    show_default=True,
    metavar="N|all",
    help="At most N of --data, drawn by --data-seed; half of them choose, half report.",
)
@click.option(
    "--data-seed",
    type=int,
    default=0,
    show_default=True,
    help="Of --data-samples and of the two parts.",
)
@label_flags
@click.option(
    "-o", "--output", metavar="JSON", help="Write the result as JSON to this file as well."
)
@click.option(
    "--save-model",
    metavar="FILE",
    help="Write the chosen model, unless a gate fails or it is worse on the reporting part.",
)
@click.option("--save-table", metavar="JSON", help="Write the calibration table.")
@click.option(
    "--save-cr", metavar="TOML", help="Write c_r per layer, where the chosen setting has any."
)
@click.option("--force", is_flag=True, help="Replace existing files.")
@click.option(
    "--journal",
    metavar="DIR",
    help="Keep what attacks found there.  [default: beside MODEL until the sweep is done]",
)
@scanning_flags
@evidence_flags("sweep", ("output",), ("save_model", "save_table", "save_cr"))
def command(
    model: str,
    calib: str,
    data: str,
    evidence: Evidence,
    journal: str | None,
    format_: str,
    no_progress: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Find the setting to ship: c_r, form and variant.

    Calibrates MODEL once, builds it with every setting, and measures clean accuracy, what
    is suppressed, singular values of the masked weights, latency and, with --eps, accuracy
    under attack. Settings are chosen on one part of DATA, and the chosen one is measured
    again on the other.

    \b
    Examples:
      lipcompile sweep model.onnx --calib calib/ --data labelled/ -o sweep.json
      lipcompile sweep model.onnx --calib calib/ --data labelled/ --eps 8/255
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in audit_command
    from lipcompile.sweeping.opening import DataOptions
    from lipcompile.sweeping.sweep import sweep

    folder = Path(journal) if journal is not None else None
    if folder is None:
        deciding = {name: x for name, x in flags.items() if name not in _WRITING}
        folder = journal_beside(model, "sweep", [calib, data, *sorted(deciding.items())])
    attacked = flags["eps"] is not None
    reading = DataOptions(
        labelled=not flags.pop("unlabelled"),
        samples=parse_samples(flags.pop("data_samples"), "data-samples"),
        seed=flags.pop("data_seed"),
        labels=flags.pop("labels"),
        classes=flags.pop("classes"),
        scores=flags.pop("scores"),
    )
    selector, scan, runtime = scanning_options(flags)
    layout = scan.image_flags.get("layout")
    ensembles = [
        EnsembleOptions(views, layout=layout, scores=reading.scores)
        for views in _words(flags.pop("ensembles"))
    ]
    variants = _words(flags.pop("variants"), _VARIANTS)
    if flags["forms"] is not None and "forged" not in variants:
        raise OptionError(
            "--forms names forged functions, and --variants has no forged: add it, or leave "
            "--forms out"
        )
    with progress("calibrating", not (no_progress or quiet)) as update:
        result = sweep(
            model,
            calib,
            data,
            forms=_words(flags.pop("forms"), FORMS),
            variants=variants,
            ensembles=ensembles,
            seed=flags.pop("attack_seed"),
            reading=reading,
            selector=selector,
            scan=scan,
            runtime=runtime,
            output=flags.pop("save_model"),
            journal=folder if attacked else None,
            progress=update,
            notify=None if quiet or no_progress else Notes(),
            **flags,
        )
    evidence.publish(result, format_, quiet)
    if attacked and journal is None:
        from lipcompile.auditing.journal import Journal

        Journal(folder).remove()
    stop_where_failed(result)


def _words(text: str | None, default: Iterable[str] = ()) -> list[str]:
    if text is None:
        return list(default)
    return [word.strip() for word in text.split(",") if word.strip()]
