"""What a calibration sample is, and what makes an array fit a model input."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes  # noqa: F401  (teaches NumPy the name "bfloat16")
import numpy as np

from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec


@dataclass(frozen=True, slots=True, eq=False)  # == on arrays has no single truth value
class Sample:
    """One calibration sample.

    Attributes:
        name: For messages: a relative path, "file.npz[17]" or "item 3".
        feeds: One array per model input, in the input's dtype.
        whole: True where the arrays are complete feeds; False where the batch axis is missing
            and the arrays may be stacked (an input of rank 0 is never stacked).
        digest: sha256 of the content, whatever its path or position.
        position: Its place in the source.
    """

    name: str
    feeds: dict[str, np.ndarray]
    whole: bool
    digest: bytes
    position: int = 0


def array_sample(
    name: str, feeds: Mapping[str, np.ndarray], inputs: Sequence[TensorSpec], whole: bool
) -> Sample:
    """A sample of arrays that are checked and cast to the inputs' dtypes.

    Raises:
        DataError: An array does not fit its input, or holds NaN or Inf.
    """
    checked = {spec.name: check_array(name, spec, feeds[spec.name], whole) for spec in inputs}
    digest = hashlib.sha256()
    for key in sorted(checked):
        array = checked[key]
        digest.update(f"{key}\0{array.dtype.name}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return Sample(name, checked, whole, digest.digest())


def check_array(name: str, spec: TensorSpec, array: np.ndarray, whole: bool) -> np.ndarray:
    """A copy of `array` in the input's dtype, once dtype, shape and values are checked.

    Raises:
        DataError: As in `array_sample`.
    """
    check_shape(name, spec, array.shape, whole)
    dtype = check_dtype(name, spec, array.dtype)
    if array.dtype.kind in "iu" and array.dtype != dtype:
        low, high, limits = int(array.min()), int(array.max()), np.iinfo(dtype)
        if low < limits.min or high > limits.max:
            raise DataError(
                f"sample '{name}': input '{spec.name}' takes {dtype}, got {array.dtype} values"
                f" from {low} to {high} that it cannot hold: clip or rescale the data"
            )
    with np.errstate(over="ignore"):  # Overflow becomes Inf, which is reported below.
        cast = np.array(array, dtype=dtype, order="C")
    if _family(dtype) == "float" and not np.isfinite(cast).all():
        raise DataError(
            f"sample '{name}': input '{spec.name}' holds NaN or Inf as {dtype}: repair the"
            " data, or pass --on-bad-sample skip to leave it out and have it counted"
        )
    return cast


def check_shape(name: str, spec: TensorSpec, shape: tuple[int, ...], whole: bool) -> None:
    """Raises DataError unless `shape` has the fixed dimensions that the input asks for."""
    asked = spec if whole or spec.shape is None else replace(spec, shape=spec.shape[1:])
    if not asked.accepts(shape) or 0 in shape:
        want = asked.shape if asked.shape is not None else ("",) * len(shape)
        dims = ", ".join(str(w or "?") for w in want)
        part = "" if whole else " per sample"
        raise DataError(
            f"sample '{name}': input '{spec.name}' takes shape [{dims}]{part}, got"
            f" {list(shape)}: the data was prepared for another model, or is transposed"
        )


def target_dtype(spec: TensorSpec) -> np.dtype[Any]:
    """NumPy's dtype of an input.

    Raises:
        DataError: The input is no tensor of numbers.
    """
    try:
        dtype = np.dtype(spec.dtype or "O")
    except TypeError:
        dtype = np.dtype("O")
    if dtype == np.dtype("O"):
        raise DataError(
            f"input '{spec}' is not a tensor of numbers, so no calibration data can be fed to"
            " it: export the model without it"
        )
    return dtype


def check_dtype(name: str, spec: TensorSpec, got: np.dtype[Any]) -> np.dtype[Any]:
    """The input's dtype, once `got` may be cast to it without changing the kind.

    Raises:
        DataError: The input is no tensor of numbers, or the cast would change the meaning.
    """
    dtype = target_dtype(spec)
    if got != dtype and (_family(got) != _family(dtype) or _family(got) == "other"):
        raise DataError(
            f"sample '{name}': input '{spec.name}' takes {dtype}, got {got}: scale the values"
            f" as the model expects them and cast with .astype('{dtype}')"
        )
    return dtype


def _family(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "f" or "float" in dtype.name:
        return "float"
    return {"i": "int", "u": "int", "b": "bool"}.get(dtype.kind, "other")
