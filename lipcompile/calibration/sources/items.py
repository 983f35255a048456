"""One item of the data as a sample: an array, or a dict of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lipcompile.calibration.sources.sample import Sample, array_sample
from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec

_LABELS = ("labels", "label", "y")


def item_sample(
    name: str, item: object, inputs: Sequence[TensorSpec], whole: bool | None = None
) -> Sample:
    """The sample in one item: an array, or a dict of arrays; `whole` None tells by the ranks.

    Raises:
        DataError: The item is something else, or does not fit the inputs.
    """
    if not isinstance(item, np.ndarray | Mapping):
        raise DataError(
            f"sample '{name}' is a '{type(item).__name__}', expected a NumPy array or a dict"
            " of arrays: yield the inputs alone, without labels"
        )
    arrays = match_inputs(name, item, inputs)
    whole = _is_whole(name, arrays, inputs) if whole is None else whole
    return array_sample(name, arrays, inputs, whole)


def match_inputs(
    name: str, data: np.ndarray | Mapping[Any, Any], inputs: Sequence[TensorSpec]
) -> dict[str, np.ndarray]:
    """The array of each input; other arrays, such as labels, are left out.

    A bare array, and the only array beside labels, is that of a model's only input.

    Raises:
        DataError: An input has no array, or a value is no array.
    """
    if isinstance(data, np.ndarray):
        if len(inputs) != 1:
            raise DataError(
                f"'{name}' is one array, but the model takes {[str(spec) for spec in inputs]}:"
                " give a .npz file or a dict with one array per input"
            )
        return {inputs[0].name: np.asarray(data)}
    names = [spec.name for spec in inputs]
    rest = {key: value for key, value in data.items() if key in names}
    nameless = [value for key, value in data.items() if key not in _LABELS]
    if len(names) == len(nameless) == 1:
        rest = {names[0]: nameless[0]}
    if missing := [str(spec) for spec in inputs if spec.name not in rest]:
        raise DataError(
            f"'{name}' has no array for the inputs {missing}; it has"
            f" {sorted(map(str, data))}: name each array after its input"
        )
    for key, value in rest.items():
        if not isinstance(value, np.ndarray | np.generic):
            raise DataError(
                f"'{name}' gives a '{type(value).__name__}' for input '{key}', expected a"
                " NumPy array: convert it, for example with .numpy() or np.asarray"
            )
    return {key: np.asarray(rest[key]) for key in names}


def _is_whole(
    name: str, arrays: Mapping[str, np.ndarray], inputs: Sequence[TensorSpec]
) -> bool:
    """Whether one item's arrays have the batch axis (rank r) or lack it (rank r - 1).

    Raises:
        DataError: The ranks fit neither reading.
    """
    lacking = {arrays[s.name].ndim - len(s.shape) for s in inputs if s.shape}
    if lacking <= {0} or lacking == {-1}:
        return lacking != {-1}
    got = {spec.name: list(arrays[spec.name].shape) for spec in inputs}
    raise DataError(
        f"sample '{name}' has arrays of shape {got}, but the model takes"
        f" {[str(spec) for spec in inputs]}: give every input with its batch axis, or every"
        " input without it"
    )
