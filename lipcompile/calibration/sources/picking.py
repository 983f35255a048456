"""Which samples of a source are read: all, a random subset, one shard of either."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lipcompile.errors import DataError, OptionError


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` equal parts: every `count`-th sample, beginning with number `index`.

    Attributes:
        index: From 1 to `count`.
        count: How many parts there are.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise OptionError(
                f"shard {self} is none: of N shards, I counts from 1 to N, as in 1/4"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads "I/N".

        Raises:
            OptionError: It is not written so.
        """
        match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text, re.ASCII)
        if match is None:
            raise OptionError(f"shard '{text}' is not written I/N: for example 1/4")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


WHOLE = Shard()


@dataclass(frozen=True, slots=True)
class Pick:
    """Chooses samples by their number.

    Attributes:
        samples: At most so many: a random subset where the length is known, else the first.
        seed: Of the subset.
        shard: The part of those.
    """

    samples: int | None = None
    seed: int = 0
    shard: Shard = WHOLE

    def __call__(self, count: int) -> Sequence[int]:
        """The chosen ones of `count` samples, in their order.

        Raises:
            DataError: The shard is empty.
        """
        chosen = pick_subset(count, samples=self.samples, seed=self.seed)
        part = chosen[self.shard.index - 1 :: self.shard.count]
        if chosen and not part:
            raise DataError(
                f"shard {self.shard} of {len(chosen)} samples is empty: make at most "
                f"{len(chosen)} shards"
            )
        return part


def pick_subset(count: int, *, samples: int | None, seed: int) -> Sequence[int]:
    """`samples` random indices below `count` in their order, or all where there are fewer."""
    if samples is None or samples >= count:
        return range(count)
    chosen = np.random.default_rng(seed).choice(count, samples, replace=False)
    return sorted(map(int, chosen))
