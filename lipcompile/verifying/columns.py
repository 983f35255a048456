"""Variant "weight": each edited weight is the original's with exactly those columns zeroed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lipcompile.text import count
from lipcompile.verifying.pair import Pair, Record
from lipcompile.verifying.results import VerifyCheck, some
from lipcompile.weights import columns_of, stored_weight

NAME = "zeroed columns"


def check_columns(pair: Pair) -> VerifyCheck:
    """Compares the numbers that each layer multiplies with, however they are stored."""
    if pair.compacted:
        reason = "channels were removed, so the columns have other numbers: see the rebuilt "
        return VerifyCheck(NAME, None, f"{reason}model")
    if pair.change.rescaling is not None:
        reason = "the weights were rescaled afterwards: see the rebuilt model"
        return VerifyCheck(NAME, None, reason)
    found = [fault for record in pair.columns for fault in _faults(pair, record)]
    if found:
        return VerifyCheck(NAME, False, some(found))
    zeroed = sum(len(record["columns"]) for record in pair.columns)
    total = sum(int(record["count"]) for record in pair.columns)
    layers = count(pair.columns, "layer")
    return VerifyCheck(NAME, True, f"exactly {zeroed} of {total} columns of {layers}")


def _faults(pair: Pair, record: Record) -> Iterator[str]:
    name = record["layer"]
    layer = pair.layers.get(name)
    node = pair.hardened_nodes.get(layer.node.outputs[0].name or "") if layer else None
    if layer is None or node is None:
        yield f"there is no layer '{name}'"
        return
    index = 1 - layer.data_index
    before, after = stored_weight(layer.node, index), stored_weight(node, index)
    if isinstance(before, str) or isinstance(after, str):
        yield f"the weight of '{name}' cannot be read"
        return
    old, new = before.as_read(before.array()), after.as_read(after.array())
    lie = columns_of(layer, old.shape)
    columns = [int(j) for j in record["columns"]]
    if lie.count != int(record["count"]) or not all(0 <= j < lie.count for j in columns):
        yield (
            f"layer '{name}' has {lie.count} columns, and the record tells of "
            f"{record['count']}, or of others"
        )
        return
    goes = np.zeros(lie.count, dtype=bool)
    goes[columns] = True
    mask = lie.spread(goes)
    expected = np.where(mask, before.as_read(before.zeros()), old)
    if expected.shape != new.shape or expected.tobytes() != new.tobytes():
        yield f"the weight of '{name}' is not the original's with its columns zeroed"
