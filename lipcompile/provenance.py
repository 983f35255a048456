"""What a hardened model says of itself: `lipcompile.*` keys in its `metadata_props`.

lipcompile.version   version of LipCompile
lipcompile.source    digest of the model before hardening
lipcompile.table     digest of the calibration table
lipcompile.data      number and digest of the calibration samples, and whether they are random
lipcompile.form      "smooth" or "hard"; lipcompile.a, lipcompile.b where the form has them
lipcompile.c_r       relative threshold
lipcompile.sites     JSON: per site its layers, tensors, absmax, c and encoding
lipcompile.inlined   local functions that were inlined, where there were any
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lipcompile.calibration.table import CalibrationTable
from lipcompile.errors import ModelError
from lipcompile.forged import ForgedFunction
from lipcompile.model_io import LoadedModel
from lipcompile.ops import MARK
from lipcompile.passes.insert_forged import SitePlan
from lipcompile.version import __version__

SITES = f"{MARK}.sites"
_INLINED = f"{MARK}.inlined"


def is_hardened(metadata: Mapping[str, str]) -> bool:
    return SITES in metadata


def read_sites(metadata: Mapping[str, str]) -> list[dict[str, Any]]:
    """The site records of a hardened model, or [].

    Raises:
        ModelError: The provenance is damaged.
    """
    try:
        records = json.loads(metadata.get(SITES, "[]"))
        if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
            raise ValueError("not a list of objects")
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"metadata '{SITES}' is damaged ({error}): harden the original model again"
        ) from error
    return records


def make_provenance(
    source: LoadedModel,
    table: CalibrationTable,
    form: ForgedFunction,
    c_r: float,
    plans: tuple[SitePlan, ...],
    forged: Mapping[str, str],
) -> dict[str, str | None]:
    """The metadata to add to `source`; None drops a key of an earlier form.

    Holds no time and no path: the same inputs give the same bytes.

    Args:
        source: The model that was hardened.
        table: Where its maxima came from.
        form: The forged function.
        c_r: Relative threshold.
        plans: What was done at each site.
        forged: For each site tensor the tensor that holds f_c of it.
    """
    before = source.metadata
    records = read_sites(before)
    records += [_record(plan, form, c_r, forged[plan.site.tensor]) for plan in plans]
    data = {
        "kind": "random" if table.data.kind == "random" else "given",
        "samples": table.data.samples,
        "digest": table.data.digest,
    }
    metadata: dict[str, str | None] = {
        f"{MARK}.version": __version__,
        f"{MARK}.source": before.get(f"{MARK}.source", source.digest),
        f"{MARK}.table": table.digest,
        f"{MARK}.data": json.dumps(data),
        f"{MARK}.form": form.name,
        f"{MARK}.c_r": repr(c_r),
        SITES: json.dumps(records),
    }
    metadata |= {f"{MARK}.{k}": repr(v) for k, v in form.parameters().items()}
    inlined = json.dumps(list(source.inlined)) if source.inlined else before.get(_INLINED)
    if inlined is not None:
        metadata[_INLINED] = inlined
    # Parameters of a form that was used before belong to its own records, not to this one.
    metadata |= {k: None for k in before if k.startswith(f"{MARK}.") and k not in metadata}
    return metadata


def _record(plan: SitePlan, form: ForgedFunction, c_r: float, forged: str) -> dict[str, Any]:
    return {
        "layers": [layer.name for layer in plan.site.layers],
        "tensor": plan.site.tensor,
        "forged": forged,
        "form": form.name,
        **form.parameters(),
        "c_r": c_r,
        "absmax": plan.absmax,
        "c": plan.c,
        "encoding": plan.encoding.label,
    }
