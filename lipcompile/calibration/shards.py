"""Which shards of one division of the data a table holds, so that none enters twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lipcompile.calibration.json_values import of_type


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """Some shards, but not all, of one division.

    Attributes:
        division: What was divided: SHA-256, in hexadecimal, of the listing of all samples and
            of the subset that was drawn from them.
        count: Into how many shards.
        held: Those in the table, from 1, ascending.
    """

    division: str
    count: int
    held: tuple[int, ...]

    def __post_init__(self) -> None:
        inside = all(1 <= index <= self.count for index in self.held)
        if not inside or not self.held or list(self.held) != sorted(set(self.held)):
            raise ValueError(f"shards {self.held} of {self.count}")

    def __str__(self) -> str:
        listed = ", ".join(map(str, self.held))
        return f"shard{'s' * (len(self.held) > 1)} {listed} of {self.count}"

    def to_json(self) -> dict[str, Any]:
        return {"division": self.division, "count": self.count, "held": list(self.held)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> ShardRecord | None:
        """Reads what `to_json` gave, or None.

        Raises:
            KeyError, TypeError, ValueError: It is damaged.
        """
        if content is None:
            return None
        held = tuple(of_type(int, index) for index in of_type(list, content["held"]))
        division, count = of_type(str, content["division"]), of_type(int, content["count"])
        return cls(division, count, held)


def join_shards(left: ShardRecord, right: ShardRecord) -> ShardRecord | None:
    """The shards of both, of one division and disjoint; None when no shard is missing."""
    held = tuple(sorted((*left.held, *right.held)))
    both = ShardRecord(left.division, left.count, held)
    return both if len(held) < left.count else None
