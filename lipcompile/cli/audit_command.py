"""lipcompile audit"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from lipcompile.cli.evidence import Evidence, evidence_flags, stop_where_failed
from lipcompile.cli.flags import attack_flags, image_flags, label_flags
from lipcompile.cli.long_work import Notes, journal_beside, parse_samples
from lipcompile.cli.options import image_from
from lipcompile.cli.show import format_flag


@click.command("audit")
@click.argument("hardened")
@click.option("--original", required=True, metavar="MODEL", help="The model before hardening.")
@click.option(
    "--data",
    required=True,
    metavar="DATA",
    help="Labelled images: a folder of class folders, a CSV, or an .npz.",
)
@click.option(
    "--eps",
    required=True,
    metavar="X",
    help="Radius in pixel units in [0, 1], before normalisation. Also 8/255.",
)
@click.option(
    "--samples",
    default="500",
    show_default=True,
    metavar="N|all",
    help="At most N images, drawn by --data-seed.",
)
@attack_flags
@label_flags
@click.option("--seed", type=int, default=0, show_default=True, help="Of the attacks.")
@click.option(
    "--data-seed", type=int, default=0, show_default=True, help="Of the images drawn."
)
@click.option(
    "--batch-size", type=int, metavar="N", help="Images per batch.  [default: by size]"
)
@click.option("--threads", type=int, default=0, metavar="N", help="[default: all cores]")
@click.option(
    "--min-robust-accuracy",
    type=float,
    metavar="SHARE",
    help="Gate: exit 1 where the hardened model's worst case is lower, or masked.",
)
@click.option(
    "--max-accuracy-drop",
    type=float,
    metavar="SHARE",
    help="Gate: exit 1 where its clean or worst-case accuracy is lower than the original's "
    "by more.",
)
@click.option(
    "--max-latency-ratio",
    type=float,
    metavar="X",
    help="Gate: exit 1 where the median latency ratio is larger.",
)
@click.option(
    "--min-agreement",
    type=float,
    metavar="SHARE",
    help="Gate: exit 1 where both models give fewer images the same class without attack.",
)
@click.option(
    "-o", "--output", metavar="JSON", help="Write the result as JSON to this file as well."
)
@click.option(
    "--save-examples",
    metavar="NPZ",
    help="Write what broke each image of each model, for others to replay.",
)
@click.option("--force", is_flag=True, help="Replace existing files.")
@evidence_flags("audit", outputs=("output", "save_examples"))
@click.option(
    "--journal",
    metavar="DIR",
    help="Keep intermediate results there, also for later audits.  [default: beside "
    "HARDENED until the audit is done]",
)
@image_flags
@format_flag
@click.option("--no-progress", is_flag=True, help="Do not say what was done so far.")
@click.option("-q", "--quiet", is_flag=True, help="Print neither result nor progress.")
def command(
    hardened: str,
    original: str,
    data: str,
    evidence: Evidence,
    save_examples: str | None,
    force: bool,
    samples: str,
    journal: str | None,
    format_: str,
    no_progress: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Attack a hardened model and its original, and compare them.

    Every attack runs on both models and the same images; an image counts as robust when
    nothing that any attack found changes the class in ONNX Runtime. Prints a verdict:
    improved, no measurable change, worse, or masked. An interrupted audit goes on where it
    was when it is started again.

    \b
    Example:
      lipcompile audit model.hardened.onnx --original model.onnx --data test/ --eps 8/255
    """
    # Threads of torch that wait actively stall each other where cores are shared: beside one
    # busy process on two cores that costs a factor of 10 (libgomp reads this when it loads).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # torch takes seconds to load: not before the arguments were read.
    from lipcompile.auditing.audit import audit
    from lipcompile.auditing.journal import Journal

    folder = (
        Path(journal)
        if journal is not None
        else journal_beside(
            hardened, "audit", [original, data, samples, *sorted(flags.items())]
        )
    )
    result = audit(
        hardened,
        original,
        data,
        samples=parse_samples(samples),
        journal=folder,
        notify=None if quiet or no_progress else Notes(),
        **image_from(flags),
        **flags,
    )
    try:
        if save_examples is not None:
            result.save_examples(Path(save_examples))
    finally:
        evidence.publish(result, format_, quiet)
    if journal is None:
        Journal(folder).remove()
    stop_where_failed(result)
