"""Samples that were run, kept with what the model gave: to compare other models with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

PROBE_SAMPLES = 256  # as many are kept


@dataclass(frozen=True, slots=True)
class Probe:
    """Feeds that were run, and what the original model gave.

    Attributes:
        feeds: Complete inputs by name.
        outputs: The original model's tensor outputs by name.
        count: How many samples the feeds hold.
        padding: How many rows at the end only fill up a fixed batch.
    """

    feeds: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    count: int
    padding: int = 0

    def divided(self, rows: int, *, fixed: bool) -> Iterator[dict[str, np.ndarray]]:
        """The feeds, `rows` samples at a time; whole where a batch cannot be divided.

        Args:
            rows: At least 1.
            fixed: Whether the model fixes its batch.
        """
        total = self.count + self.padding
        if fixed or any(x.ndim and len(x) != total for x in self.feeds.values()):
            yield dict(self.feeds)
            return
        for start in range(0, total, rows):
            part = slice(start, start + rows)
            yield {name: x[part] if x.ndim else x for name, x in self.feeds.items()}
