"""Random samples, which are used only where they are asked for by name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lipcompile.calibration.sources.picking import Pick
from lipcompile.calibration.sources.sample import Sample, array_sample, target_dtype
from lipcompile.calibration.sources.source import (
    Origin,
    Source,
    indexed_source,
    listing_digest,
)
from lipcompile.errors import DataError, OptionError
from lipcompile.signature import TensorSpec

RANDOM_PREFIX = "random:"
_MOST_ELEMENTS = 1 << 28  # 2 GiB while they are drawn


def open_random(text: str, inputs: Sequence[TensorSpec], pick: Pick) -> Source:
    """Standard-normal floats and integers 0 or 1; dynamic axes have length 1.

    Args:
        text: "random:N" for N samples.
        inputs: The model's inputs, all tensors of numbers.
        pick: Chooses the indices of the samples that are read; sample i is drawn from
            (its seed, i), whatever else is read.

    Raises:
        DataError: The rank of an input is not known.
        OptionError: N is no whole number above 0.
    """
    count = text.removeprefix(RANDOM_PREFIX)
    if not count.isdecimal() or int(count) < 1:
        raise OptionError(f"'{text}' is no random data: write random:N with N samples, N >= 1")
    for spec in inputs:
        if spec.shape is None:
            raise DataError(
                f"input '{spec}' has no known rank, so no random data can be drawn for it:"
                " give .npz data"
            )
        elements = math.prod(_shape(spec)) * (spec.fixed_batch or 1)
        if elements > _MOST_ELEMENTS:
            raise DataError(
                f"input '{spec}' takes {elements:,} numbers at once, and at most"
                f" {_MOST_ELEMENTS:,} are drawn: give .npz data, or check the model"
            )
    whole = not any(spec.shape for spec in inputs)

    def load(name: str, i: int) -> Sample:
        rng = np.random.default_rng([pick.seed, i])
        feeds = {spec.name: _draw(rng, spec) for spec in inputs}
        return array_sample(name, feeds, inputs, whole)

    origin = Origin(lambda: listing_digest([text, str(pick.seed)]))
    indices = pick(int(count))
    return indexed_source(
        "random", text, indices, lambda i: f"random[{i}]", load, origin=origin
    )


def _draw(rng: np.random.Generator, spec: TensorSpec) -> np.ndarray:
    dtype = target_dtype(spec)
    shape = _shape(spec)
    if dtype.kind in "iub":
        return np.asarray(rng.integers(0, 2, shape)).astype(dtype)
    return np.asarray(rng.standard_normal(shape)).astype(dtype)


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    """Of a sample without its batch axis."""
    return tuple(1 if isinstance(side, str) else side for side in (spec.shape or ())[1:])
