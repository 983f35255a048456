"""Arrays as model feeds: what a sample is, what makes an array fit an input, .npy and .npz."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec

Arrays = Mapping[str, np.ndarray]
_LABELS = ("labels", "label", "y")


@dataclass(frozen=True, slots=True, eq=False)  # == on arrays has no single truth value
class Sample:
    """One calibration sample.

    Attributes:
        name: For messages: a relative path, "file.npz[17]" or "item 3".
        feeds: One array per model input, in the input's dtype.
        whole: True where the arrays are complete feeds; False where the batch axis is missing
            and the arrays may be stacked (an input of rank 0 is never stacked).
        digest: sha256 of the content, whatever its path or position.
    """

    name: str
    feeds: dict[str, np.ndarray]
    whole: bool
    digest: bytes


def array_sample(
    name: str, feeds: Arrays, inputs: Sequence[TensorSpec], whole: bool
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
    want: tuple[int | str, ...] = (
        spec.shape if spec.shape is not None else tuple("?" * len(shape))
    )
    want = want if whole or spec.shape is None else want[1:]
    fits = len(want) == len(shape) and all(
        isinstance(w, str) or w == g for w, g in zip(want, shape, strict=True)
    )
    if not fits or 0 in shape:
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
    import ml_dtypes  # noqa: F401  (teaches NumPy the name "bfloat16")

    try:
        return np.dtype(spec.dtype) if spec.dtype else np.dtype("O")
    except TypeError:
        return np.dtype("O")


def check_dtype(name: str, spec: TensorSpec, got: np.dtype[Any]) -> np.dtype[Any]:
    """The input's dtype, once `got` may be cast to it without changing the kind.

    Raises:
        DataError: The input is no tensor of numbers, or the cast would change the meaning.
    """
    dtype = target_dtype(spec)
    if dtype == np.dtype("O"):
        raise DataError(
            f"input '{spec}' is not a tensor of numbers, so no calibration data can be fed to"
            " it: export the model without it"
        )
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


def match_inputs(
    name: str, arrays: Mapping[Any, Any], inputs: Sequence[TensorSpec]
) -> dict[str, np.ndarray]:
    """The array of each input; labels are left out.

    Raises:
        DataError: An input has no array, a key is no input, or a value is no array.
    """
    names = [spec.name for spec in inputs]
    rest = {k: v for k, v in arrays.items() if k in names or k not in _LABELS}
    if len(names) == 1 and len(rest) == 1:
        rest = {names[0]: next(iter(rest.values()))}
    if missing := [str(spec) for spec in inputs if spec.name not in rest]:
        raise DataError(
            f"'{name}' has no array for the inputs {missing}; it has"
            f" {sorted(map(str, arrays))}: name each array after its input"
        )
    if unknown := sorted(str(k) for k in rest if k not in names):
        raise DataError(
            f"'{name}' has arrays {unknown} that are no inputs; the model takes"
            f" {[str(spec) for spec in inputs]}: remove or rename them"
        )
    for key, value in rest.items():
        if not isinstance(value, np.ndarray | np.generic):
            raise DataError(
                f"'{name}' gives a '{type(value).__name__}' for input '{key}', expected a"
                " NumPy array: convert it, for example with .numpy() or np.asarray"
            )
    return {key: np.asarray(rest[key]) for key in names}


def _only_input(name: str, array: np.ndarray, inputs: Sequence[TensorSpec]) -> Arrays:
    if len(inputs) != 1:
        raise DataError(
            f"'{name}' is one array, but the model takes {[str(spec) for spec in inputs]}:"
            " give a .npz file or a dict with one array per input"
        )
    return {inputs[0].name: array}


def is_whole(name: str, arrays: Arrays, inputs: Sequence[TensorSpec]) -> bool:
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


def read_arrays(path: Path, name: str) -> np.ndarray | dict[str, np.ndarray]:
    """The content of a .npy file (memory-mapped) or of a .npz file; pickles are refused.

    Raises:
        DataError: The file is missing, damaged, or holds Python objects.
    """
    try:
        # np.load leaves the file open when it meets a damaged .npz by its path.
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                file.seek(0)
                with np.load(file, allow_pickle=False) as loaded:
                    return dict(loaded)
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as err:
        cause = getattr(err, "strerror", None) or err
        raise DataError(
            f"array file '{name}' cannot be read ({cause}): write plain numeric arrays with"
            " np.save or np.savez"
        ) from err


def common_length(name: str, arrays: Iterable[np.ndarray]) -> int:
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


def item_sample(
    name: str, item: object, inputs: Sequence[TensorSpec], whole: bool | None = None
) -> Sample:
    """The sample in one item: an array, or a dict of arrays; `whole` None tells by the ranks.

    Raises:
        DataError: The item is something else, or does not fit the inputs.
    """
    if isinstance(item, np.ndarray):
        item = _only_input(name, item, inputs)
    if not isinstance(item, Mapping):
        raise DataError(
            f"sample '{name}' is a '{type(item).__name__}', expected a NumPy array or a dict"
            " of arrays: yield the inputs alone, without labels"
        )
    arrays = match_inputs(name, item, inputs)
    whole = is_whole(name, arrays, inputs) if whole is None else whole
    return array_sample(name, arrays, inputs, whole)


def draw(rng: np.random.Generator, spec: TensorSpec) -> np.ndarray:
    """A random sample: standard-normal floats, integers 0 or 1; dynamic axes have length 1."""
    dtype = target_dtype(spec)
    shape = tuple(1 if isinstance(side, str) else side for side in (spec.shape or ())[1:])
    if dtype.kind in "iub":
        return np.asarray(rng.integers(0, 2, shape)).astype(dtype)
    return np.asarray(rng.standard_normal(shape)).astype(dtype)


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


def stack_arrays(label: str, data: np.ndarray | Arrays, inputs: Sequence[TensorSpec]) -> Stack:
    """Reads arrays as samples, by rank r of the input.

    Rank r: row i is a sample without its batch axis. Rank r + 1: row i is a complete feed;
    then, and for r = 0, arrays of rank r are the same for every sample.

    Raises:
        DataError: Names, ranks, lengths, dtypes or shapes do not fit.
    """
    if isinstance(data, np.ndarray):
        data = _only_input(label, data, inputs)
    arrays = match_inputs(label, data, inputs)
    ranks = {s.name: arrays[s.name].ndim if s.shape is None else len(s.shape) for s in inputs}
    extra = {key: arrays[key].ndim - rank for key, rank in ranks.items()}
    whole = 1 in extra.values() or not any(ranks.values())
    rows = {k for k, rank in ranks.items() if extra[k] == 1 or (rank and not whole)}
    for spec in inputs:
        got, rank = list(arrays[spec.name].shape), ranks[spec.name]
        if extra[spec.name] not in (0, 1):
            raise DataError(
                f"'{label}': the array for input '{spec}' has shape {got}, expected"
                f" rank {rank} (samples along axis 0) or {rank + 1} (complete feeds along axis"
                " 0): stack the samples with np.stack"
            )
    count = common_length(label, [arrays[key] for key in sorted(rows)])
    for spec in inputs:
        array = arrays[spec.name]
        check_dtype(label, spec, array.dtype)
        check_shape(label, spec, array.shape[spec.name in rows :], whole)
    return Stack(tuple(inputs), arrays, frozenset(rows), whole, count)
