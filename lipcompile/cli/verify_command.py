"""lipcompile verify"""

from __future__ import annotations

from typing import Any

import click

from lipcompile.calibration.options import ScanOptions
from lipcompile.cli.evidence import Evidence, evidence_flags
from lipcompile.cli.flags import DATA_KINDS, image_flags, output_flags, runtime_flags
from lipcompile.cli.options import image_from, runtime_from
from lipcompile.cli.show import progress
from lipcompile.verifying.verify import verify


@click.command("verify")
@click.argument("original")
@click.argument("hardened")
@click.option(
    "--data",
    metavar="DATA",
    help=f"As calibration data: {DATA_KINDS}  [default: random]",
)
@click.option(
    "--samples",
    type=int,
    metavar="N",
    help="At most N samples, drawn by --seed.  [default: 32]",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of --samples and random data."
)
@image_flags
@click.option(
    "--pairs",
    type=int,
    default=50,
    show_default=True,
    metavar="N",
    help="Pairs of runs for the latency ratio; 0 skips it.",
)
@runtime_flags
@click.option(
    "--min-agreement",
    type=float,
    metavar="SHARE",
    help="Gate: exit 1 where the top-1 agreement with the original is lower.",
)
@click.option(
    "--max-latency-ratio",
    type=float,
    metavar="X",
    help="Gate: exit 1 where the median latency ratio is larger.",
)
@click.option(
    "-o", "--output", metavar="JSON", help="Write the result as JSON to this file as well."
)
@click.option("--force", is_flag=True, help="Replace existing files.")
@evidence_flags("verify")
@output_flags
def command(
    original: str,
    hardened: str,
    data: str | None,
    samples: int | None,
    seed: int,
    evidence: Evidence,
    force: bool,
    format_: str,
    no_progress: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Check that a hardened model is what its provenance says.

    Compares HARDENED with ORIGINAL and with what hardening it again gives, byte for byte;
    runs every forged tensor against its definition; compares outputs and latency. Exits with
    1 where a check fails.

    \b
    Example:
      lipcompile verify model.onnx model.hardened.onnx --data test_images/
    """
    scan = ScanOptions(samples=samples, seed=seed, **image_from(flags))
    with progress("running the original", not (no_progress or quiet)) as update:
        result = verify(
            original,
            hardened,
            data,
            scan=scan,
            runtime=runtime_from(flags),
            progress=update,
            **flags,
        )
    evidence.conclude(result, format_, quiet)
