"""Stacked arrays: axis 0 counts the samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipcompile.calibration.sources.items import match_inputs
from lipcompile.calibration.sources.picking import Pick
from lipcompile.calibration.sources.sample import (
    Sample,
    array_sample,
    check_dtype,
    check_shape,
)
from lipcompile.calibration.sources.source import Kind, Origin, Source, indexed_source
from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec


def open_stack(
    label: str,
    data: np.ndarray | Mapping[Any, Any],
    inputs: Sequence[TensorSpec],
    pick: Pick,
    origin: Origin | None = None,
) -> Source:
    """The samples in arrays that are in memory or mapped; `pick` chooses their indices.

    `origin` is that of arrays in a file.

    Raises:
        DataError: As in `stack_arrays`.
    """
    stack = stack_arrays(label, data, inputs)
    kind: Kind = "npy" if isinstance(data, np.ndarray) else "npz"
    indices = pick(stack.count)
    return indexed_source(
        kind, label, indices, lambda i: f"{label}[{i}]", stack.load, origin=origin
    )


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Arrays whose axis 0 counts samples; `load` cuts one out.

    Attributes:
        inputs: The model's inputs.
        arrays: One array per input.
        rows: Inputs whose array has one row per sample; the others are constant.
        whole: As in Sample.
        count: Number of samples.
    """

    inputs: tuple[TensorSpec, ...]
    arrays: dict[str, np.ndarray]
    rows: frozenset[str]
    whole: bool
    count: int

    def load(self, name: str, index: int) -> Sample:
        """The sample at `index`; raises DataError where its values are bad."""
        feeds = {k: a[index] if k in self.rows else a for k, a in self.arrays.items()}
        feeds = {key: np.asarray(value) for key, value in feeds.items()}
        return array_sample(name, feeds, self.inputs, self.whole)


def stack_arrays(
    label: str, data: np.ndarray | Mapping[Any, Any], inputs: Sequence[TensorSpec]
) -> Stack:
    """Reads arrays as samples, by rank r of the input.

    Rank r: row i is a sample without its batch axis. Rank r + 1: row i is a complete feed;
    then, and for r = 0, arrays of rank r are the same for every sample.

    Raises:
        DataError: Names, ranks, lengths, dtypes or shapes do not fit.
    """
    arrays = match_inputs(label, data, inputs)
    ranks = {s.name: arrays[s.name].ndim if s.shape is None else len(s.shape) for s in inputs}
    extra = {key: arrays[key].ndim - rank for key, rank in ranks.items()}
    whole = not any(ranks.values()) or any(extra[k] == 1 for k, rank in ranks.items() if rank)
    rows = {k for k, rank in ranks.items() if extra[k] == 1 or (rank and not whole)}
    for spec in inputs:
        if extra[spec.name] not in (0, 1):
            got, rank = list(arrays[spec.name].shape), ranks[spec.name]
            raise DataError(
                f"'{label}': the array for input '{spec}' has shape {got}, expected"
                f" rank {rank} (samples along axis 0) or {rank + 1} (complete feeds along axis"
                " 0): stack the samples with np.stack"
            )
    count = _common_length(label, [arrays[key] for key in sorted(rows)])
    for spec in inputs:
        array = arrays[spec.name]
        check_dtype(label, spec, array.dtype)
        check_shape(label, spec, array.shape[spec.name in rows :], whole)
    return Stack(tuple(inputs), arrays, frozenset(rows), whole, count)


def _common_length(name: str, arrays: Iterable[np.ndarray]) -> int:
    """Length of axis 0 that all `arrays` share.

    Raises:
        DataError: They differ, or are empty.
    """
    lengths = sorted({array.shape[0] for array in arrays})
    if len(lengths) > 1:
        raise DataError(
            f"'{name}' has arrays of different lengths {lengths}: give every input the same"
            " number of samples"
        )
    if lengths == [0]:
        raise DataError(f"'{name}' holds no samples (length 0): give at least one")
    return lengths[0] if lengths else 1
