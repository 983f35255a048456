"""What tells one scan from another: for going on with it, and for merging its shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lipcompile import model_io, runtime
from lipcompile.calibration.options import ScanOptions
from lipcompile.calibration.shards import ShardRecord
from lipcompile.calibration.sources.source import Source
from lipcompile.calibration.tapped import Tap
from lipcompile.runtime import RuntimeOptions
from lipcompile.sites import Site


def scan_key(
    model: model_io.LoadedModel,
    sites: Sequence[Site],
    adding: Sequence[Tap],
    source: Source,
    options: ScanOptions,
    runtime_options: RuntimeOptions,
    preprocess: Mapping[str, Any] | None,
) -> str | None:
    """SHA-256, in hexadecimal, of all that decides what is measured, but for the content of
    the data; None for data that no other process can find again."""
    if source.origin is None:
        return None
    decisive = [
        model.digest,
        [(site.tensor, site.dtype) for site in sites],
        [tap.key for tap in adding],
        [source.kind, source.label, source.count, source.origin.listing()],
        [options.samples, options.seed, str(options.part), options.batch_size],
        [options.on_bad_sample, options.on_nonfinite],
        preprocess,
        [runtime.load_onnxruntime().__version__, runtime_options.providers],
    ]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def shard_record(source: Source, options: ScanOptions) -> ShardRecord | None:
    """Which shard a scan reads; None where it reads all."""
    shard = options.part
    if shard.count == 1:
        return None
    listing = source.origin.listing() if source.origin is not None else source.label
    decisive = json.dumps([listing, options.samples, options.seed])
    division = hashlib.sha256(decisive.encode()).hexdigest()
    return ShardRecord(division, shard.count, (shard.index,))
