"""Which positions of a source were read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Coverage:
    """A set of positions, as intervals [start, stop): sorted, apart, none empty."""

    intervals: tuple[Interval, ...] = ()

    def __post_init__(self) -> None:
        edges = [edge for interval in self.intervals for edge in interval]
        if any(a >= b for a, b in zip([-1, *edges], edges, strict=False)):
            raise ValueError(f"{self.intervals} are no sorted intervals that lie apart")

    def __or__(self, other: Coverage) -> Coverage:
        merged: list[Interval] = []
        for start, stop in sorted((*self.intervals, *other.intervals)):
            if merged and start <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(stop, merged[-1][1])
            else:
                merged.append((start, stop))
        return Coverage(tuple(merged))

    def __iter__(self) -> Iterator[int]:
        return (i for start, stop in self.intervals for i in range(start, stop))

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.intervals)

    def gaps(self, count: int | None) -> list[tuple[int, int | None]]:
        """The intervals that are not covered, of `count` positions or of an unknown number."""
        starts = [0, *(stop for _, stop in self.intervals)]
        stops = [*(start for start, _ in self.intervals), count]
        pairs = zip(starts, stops, strict=True)
        return [(a, b) for a, b in pairs if b is None or a < b]


def interval(start: int, stop: int) -> Coverage:
    """The positions from `start` up to `stop`; none where that is empty."""
    return Coverage(((start, stop),) if start < stop else ())
