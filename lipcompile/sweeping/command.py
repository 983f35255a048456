"""The command line that makes the chosen model: `lipcompile harden` with the same flags."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from lipcompile.calibration.options import ScanOptions
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Selector
from lipcompile.sweeping.settings import Setting
from lipcompile.sweeping.trial import Bench

_Flags = Iterable[tuple[str, object]]


def harden_command(
    bench: Bench, setting: Setting, calib: object, table: Path | None, c_r: Path | None
) -> str | None:
    """What makes a setting's model, byte for byte; None where files and flags cannot say it.

    Args:
        bench: Names the model, the layers, and how data was read.
        setting: The setting.
        calib: The calibration data as it was handed in.
        table: Where the table was written, if anywhere: then no data is needed.
        c_r: Where c_r per layer was written, if anywhere.
    """
    if bench.source.path is None or (setting.by_layer and c_r is None):
        return None
    words = ["lipcompile harden", shlex.quote(str(bench.source.path))]
    if setting.variant != "none":
        flags = [*_selector_flags(bench.selector or Selector())]
        if table is not None:
            flags += [("table", table)]
        elif isinstance(calib, str | os.PathLike) and _has_flags(bench.scan):
            flags += [("calib", calib), *_scan_flags(bench.scan)]
            flags += _runtime_flags(bench.options)
        else:
            return None
        words += _written(flags)
    words.append(setting.flags(str(c_r) if c_r is not None else None))
    return " ".join(words)


def _written(flags: _Flags) -> list[str]:
    return [f"--{name} {shlex.quote(str(value))}" for name, value in flags]


def _has_flags(scan: ScanOptions) -> bool:
    given = scan.preprocess
    return given is None or isinstance(given, str | os.PathLike)


def _selector_flags(selector: Selector) -> Iterator[tuple[str, object]]:
    if selector.rule != "auto":
        yield "rule", selector.rule
    yield from (("include", pattern) for pattern in selector.include)
    yield from (("exclude", pattern) for pattern in selector.exclude)
    if selector.op_types:
        yield "op-types", ",".join(selector.op_types)


def _scan_flags(scan: ScanOptions) -> Iterator[tuple[str, object]]:
    """Those that change what is measured; samples per run do not."""
    if scan.samples is not None:
        yield "samples", scan.samples
    if scan.seed:
        yield "seed", scan.seed
    for name in ("on_bad_sample", "on_nonfinite"):
        if getattr(scan, name) != "fail":
            yield name.replace("_", "-"), getattr(scan, name)
    if scan.preprocess is not None:
        yield "preprocess", scan.preprocess
    for name, value in scan.image_flags.items():
        if value is not None:
            yield name.replace("_", "-"), _listed(name, value)


def _listed(name: str, value: object) -> str:
    """A number, a text, or several: "0.5,0.5,0.5"; height and width as "224x192"."""
    if isinstance(value, tuple | list):
        return ("x" if name == "input_size" else ",").join(map(str, value))
    return str(value)


def _runtime_flags(options: RuntimeOptions) -> Iterator[tuple[str, object]]:
    if options.providers != ("cpu",):
        yield "providers", ",".join(options.providers)
