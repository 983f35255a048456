"""Group samples into runs, and stack them into complete feeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lipcompile.calibration.sources.sample import Sample
from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec

_BYTES = 4 << 20  # of input per automatic batch
_LIMIT = 64
_MOST_BYTES = 8 << 30  # of a fixed batch


@dataclass(slots=True)
class Batcher:
    """How samples ride together.

    Attributes:
        inputs: The model's inputs.
        wanted: Samples per run where the batch axis is dynamic; None chooses by size.
        most: What turned out to be the most that the model, or memory, takes; None at first.
    """

    inputs: Sequence[TensorSpec]
    wanted: int | None = None
    most: int | None = None

    @property
    def fixed(self) -> int | None:
        """The batch that the model's inputs fix, or None."""
        lengths = [spec.fixed_batch for spec in self.inputs if spec.shape]
        return min((n for n in lengths if n is not None), default=None)

    def group(self, samples: Iterable[Sample]) -> Iterator[list[Sample]]:
        """Yields runs of neighbours with equal shapes; a complete feed runs alone."""
        batch: list[Sample] = []
        for sample in samples:
            if batch and not self._fits(batch, sample):
                yield batch
                batch = []
            batch.append(sample)
        if batch:
            yield batch

    def _fits(self, batch: Sequence[Sample], sample: Sample) -> bool:
        first = batch[0]
        if first.whole or sample.whole or len(batch) >= self._size(first):
            return False
        return all(_rides_with(first.feeds[k], v) for k, v in sample.feeds.items())

    def _size(self, sample: Sample) -> int:
        if self.fixed is not None:
            return self.fixed
        nbytes = max(sum(array.nbytes for array in sample.feeds.values()), 1)
        size = self.wanted or max(1, min(_BYTES // nbytes, _LIMIT))
        return size if self.most is None else min(size, self.most)

    def padding(self, batch: Sequence[Sample]) -> int:
        """How many rows only fill up a fixed batch."""
        return 0 if batch[0].whole or self.fixed is None else self.fixed - len(batch)

    def feeds(self, batch: Sequence[Sample]) -> dict[str, np.ndarray]:
        """Complete inputs by name; a fixed batch is filled up with its last sample.

        Raises:
            DataError: A fixed batch is larger than any model takes.
        """
        if batch[0].whole:
            return dict(batch[0].feeds)
        size = sum(array.nbytes for array in batch[0].feeds.values())
        if (total := size * (len(batch) + self.padding(batch))) > _MOST_BYTES:
            raise DataError(
                f"the model's inputs fix a batch of {self.fixed:,} samples, which take "
                f"{total:,} bytes, and {_MOST_BYTES:,} are the limit: check the model"
            )
        rows = [*batch, *[batch[-1]] * self.padding(batch)]
        scalars = {spec.name for spec in self.inputs if spec.shape == ()}
        return {
            name: array if name in scalars else np.stack([row.feeds[name] for row in rows])
            for name, array in batch[0].feeds.items()
        }


def _rides_with(first: np.ndarray, other: np.ndarray) -> bool:
    """Equal shapes stack; a scalar input serves the whole run, so it has to be the same."""
    return first.shape == other.shape and (first.ndim > 0 or bool(first == other))
