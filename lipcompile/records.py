"""Reading what a hardened model says of itself; `lipcompile.provenance` lists the keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lipcompile.errors import ModelError
from lipcompile.ops import MARK

SITES = f"{MARK}.sites"
COLUMNS = f"{MARK}.columns"
DROPPED = f"{MARK}.dropped"
SOURCE = f"{MARK}.source"
SOURCE_FILE = f"{MARK}.file"
INLINED = f"{MARK}.inlined"
ENSEMBLE = f"{MARK}.ensemble"  # also what the names of its tensors begin with
LIPSCHITZ = f"{MARK}.lipschitz"
ABSTAIN = f"{MARK}.abstain"  # also what the names of its tensors begin with


def is_hardened(metadata: Mapping[str, str]) -> bool:
    """Whether layers were forged, or columns zeroed; an ensemble stands around either."""
    return SITES in metadata or COLUMNS in metadata


def is_ours(metadata: Mapping[str, str]) -> bool:
    """Whether LipCompile made the model of another one."""
    return is_hardened(metadata) or bool({ENSEMBLE, LIPSCHITZ, ABSTAIN} & metadata.keys())


def read_ensemble(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The record of the ensemble around a model, or None; see `read_record`."""
    return read_record(metadata, ENSEMBLE)


def read_record(metadata: Mapping[str, str], key: str) -> dict[str, Any] | None:
    """The record under `key`, or None.

    Raises:
        ModelError: The provenance is damaged.
    """
    if key not in metadata:
        return None
    record = _read(metadata, key)
    if not isinstance(record, dict):
        raise _damaged(key, "not an object")
    return record


def read_sites(metadata: Mapping[str, str]) -> list[dict[str, Any]]:
    """The site records of a hardened model, or []; see `read_records`."""
    return read_records(metadata, SITES)


def read_records(metadata: Mapping[str, str], key: str) -> list[dict[str, Any]]:
    """The records of a hardened model under `key`, or [].

    Raises:
        ModelError: The provenance is damaged.
    """
    records = _read(metadata, key) if key in metadata else []
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise _damaged(key, "not a list of objects")
    return records


def _read(metadata: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise _damaged(key, error) from error


def _damaged(key: str, reason: object) -> ModelError:
    return ModelError(
        f"metadata '{key}' is damaged ({reason}): harden the original model again"
    )
