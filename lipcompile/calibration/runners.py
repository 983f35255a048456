"""Where a scan runs: here, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable

from lipcompile.calibration.scan import Progress, Scan


def run(
    scan: Scan, progress: Progress | None = None, kept: Callable[[], None] | None = None
) -> None:
    """Reads all samples that were not read yet, where `ScanOptions.runner` says; see
    `Scan.run`."""
    if scan.options.runner == "ray":
        from lipcompile.calibration.ray_runner import run_on_ray  # imports it where it is used

        run_on_ray(scan, progress, kept)
    else:
        scan.run(progress, kept)
