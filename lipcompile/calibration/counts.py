"""How often the elements of each input feature are suppressed: counts that add up.

An element x is suppressed by a threshold c where form `hard` sets it to 0: where not |x| > c.
Counts of different samples add up as long as their thresholds are equal.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lipcompile.calibration.json_values import decoded, of_type
from lipcompile.errors import TableError
from lipcompile.text import power_of_two

Key = tuple[str, int, float]


@dataclass(frozen=True, slots=True)
class SiteCounts:
    """Suppressed elements at one site, by input feature of the layers that sum over one axis.

    Attributes:
        tensor: Name of the site's tensor.
        axis: The axis of the features, as in `Columns.data_axis`.
        c: Threshold, in the unit of x, rounded to the site's dtype; 0 counts zeros.
        seen: How many elements each feature has over all samples.
        suppressed: For each feature, how many of them are not above c in magnitude.
    """

    tensor: str
    axis: int
    c: float
    seen: int
    suppressed: tuple[int, ...]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.c) and self.c >= 0 and self.seen > 0):
            problem = f"{self.seen} elements per feature at threshold {self.c}"
        elif not self.suppressed:
            problem = "no feature"
        elif wrong := [n for n in self.suppressed if not 0 <= n <= self.seen]:
            problem = f"{wrong[0]} of {self.seen} elements suppressed"
        else:
            return
        raise TableError(
            f"the counts of site '{self.tensor}' tell of {problem}, which is no count: "
            "calibrate again with --count-cr"
        )

    @property
    def key(self) -> Key:
        """What another table's counts must share to be added."""
        return self.tensor, self.axis, self.c

    @property
    def rates(self) -> tuple[float, ...]:
        """suppressed / seen of each feature; 1.0 where every element is suppressed."""
        return tuple(count / self.seen for count in self.suppressed)

    def to_json(self) -> dict[str, Any]:
        return {
            "tensor": self.tensor,
            "axis": self.axis,
            "c": self.c,
            "seen": self.seen,
            "suppressed": list(self.suppressed),
        }


def parse_counts(content: object, tensors: Collection[str]) -> tuple[SiteCounts, ...]:
    """Reads a list of what `to_json` gave, for sites that are among `tensors`.

    Raises:
        TableError: A number is no count.
        TypeError, KeyError, ValueError: The content is damaged otherwise.
    """
    counts = tuple(
        SiteCounts(
            of_type(str, row["tensor"]),
            of_type(int, row["axis"]),
            decoded(row["c"]),
            of_type(int, row["seen"]),
            tuple(of_type(int, count) for count in of_type(list, row["suppressed"])),
        )
        for row in of_type(list, content)
    )
    if len({row.key for row in counts}) < len(counts):
        raise ValueError("a site is counted twice at one threshold")
    if strangers := {row.tensor for row in counts} - set(tensors):
        raise ValueError(f"'{min(strangers)}' is counted and is no site")
    return counts


def add_counts(
    left: Sequence[SiteCounts], right: Sequence[SiteCounts]
) -> tuple[SiteCounts, ...]:
    """The counts of all samples together, in an order that does not depend on that of tables.

    Raises:
        TableError: They were taken at different thresholds, or on one side alone.
    """
    others = {row.key: row for row in right}
    if {row.key for row in left} != set(others):
        raise TableError(
            f"the tables were counted at different thresholds ({len(left)} and {len(right)} "
            "counts): a threshold is c_r times the maximum over all samples; merge tables "
            "without counts first, then run 'lipcompile calibrate --table MERGED --count-cr "
            "...' on each shard, and merge those"
        )
    return in_order(_added(row, others[row.key]) for row in left)


def in_order(counts: Iterable[SiteCounts]) -> tuple[SiteCounts, ...]:
    """Sorted by site, axis and threshold, as every table holds them."""
    return tuple(sorted(counts, key=lambda row: row.key))


def _added(left: SiteCounts, right: SiteCounts) -> SiteCounts:
    if len(left.suppressed) != len(right.suppressed):
        raise TableError(
            f"the tables count {len(left.suppressed)} and {len(right.suppressed)} features of "
            f"site '{left.tensor}', so one is damaged: calibrate again with --count-cr"
        )
    pairs = zip(left.suppressed, right.suppressed, strict=True)
    both = tuple(a + b for a, b in pairs)
    return replace(left, seen=left.seen + right.seen, suppressed=both)


def relative(c: float, absmax: float) -> str:
    """c_r = c / absmax for people: "2^-7", or three digits (c was rounded to a dtype)."""
    c_r = c / absmax if absmax else math.inf
    power, _, number = power_of_two(c_r).partition(" = ")
    return power if number else f"{c_r:.3g}"


def counted_for(counts: Iterable[SiteCounts], absmax: Mapping[str, float]) -> str:
    """For which c_r there are counts: "c_r = 2^-8, 2^-7"; "" for none."""
    rows = sorted(counts, key=lambda row: row.c / (absmax[row.tensor] or 1.0))
    c_rs = dict.fromkeys(relative(row.c, absmax[row.tensor]) for row in rows)
    return f"c_r = {', '.join(c_rs)}" if c_rs else ""
