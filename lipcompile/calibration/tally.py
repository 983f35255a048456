"""What a scan measures: it adds up over samples, in whatever order and parts they come.

Maxima, sums of integers, digests modulo 2^256, bounds of inputs and sketches are commutative
monoids, and so is a tally: any batching, any division among processes, and any interruption
give the same one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lipcompile.calibration.json_values import decoded, encoded, of_type
from lipcompile.calibration.sketch import Sketch, from_text, join, to_text

_MODULUS = 1 << 256
Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, eq=False)  # == on arrays has no single truth value
class Tally:
    """What was measured on some samples.

    Attributes:
        absmax: max |x| by site.
        sums: Results of further nodes by name: int64, added up.
        samples: How many samples entered.
        digest: Of their content, as in `DataRecord`.
        sketch: Of which they were.
        input_range: By input the smallest and the largest value.
        unreadable: Names of samples that could not be read.
        nonfinite: Names of samples that made a site NaN or infinite.
    """

    absmax: Mapping[str, float] = field(default_factory=dict)
    sums: Mapping[str, np.ndarray] = field(default_factory=dict)
    samples: int = 0
    digest: str = "0" * 64
    sketch: Sketch = ()
    input_range: Ranges = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
    nonfinite: tuple[str, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        absmax, sums = dict(self.absmax), dict(self.sums)
        for tensor, value in other.absmax.items():
            absmax[tensor] = max(value, absmax.get(tensor, 0.0))
        for name, array in other.sums.items():
            sums[name] = sums[name] + array if name in sums else array
        return Tally(
            absmax,
            sums,
            self.samples + other.samples,
            add_digests([self.digest, other.digest]),
            join(self.sketch, other.sketch),
            merge_ranges(self.input_range, other.input_range),
            self.unreadable + other.unreadable,
            self.nonfinite + other.nonfinite,
        )

    @property
    def seen(self) -> int:
        """How many samples were run."""
        return self.samples + len(self.nonfinite)

    def to_json(self) -> dict[str, Any]:
        return {
            "absmax": {tensor: encoded(value) for tensor, value in self.absmax.items()},
            "sums": {
                name: {"shape": list(array.shape), "values": array.ravel().tolist()}
                for name, array in self.sums.items()
            },
            "samples": self.samples,
            "digest": self.digest,
            "sketch": to_text(self.sketch),
            "input_range": encoded_ranges(self.input_range),
            "unreadable": list(self.unreadable),
            "nonfinite": list(self.nonfinite),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Tally:
        """Reads what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: It is damaged.
        """
        return cls(
            {name: decoded(value) for name, value in content["absmax"].items()},
            {
                name: np.array(of_type(list, row["values"]), np.int64).reshape(row["shape"])
                for name, row in content["sums"].items()
            },
            of_type(int, content["samples"]),
            add_digests([of_type(str, content["digest"])]),
            from_text(of_type(str, content["sketch"])),
            decoded_ranges(content["input_range"]),
            tuple(of_type(str, name) for name in of_type(list, content["unreadable"])),
            tuple(of_type(str, name) for name in of_type(list, content["nonfinite"])),
        )


def add_digests(digests: Iterable[bytes | str]) -> str:
    """Combines sample digests, or digests of sets of samples, whatever their order."""
    total = 0
    for digest in digests:
        total += int(digest, 16) if isinstance(digest, str) else int.from_bytes(digest, "big")
    return f"{total % _MODULUS:064x}"


def merge_ranges(left: Ranges, right: Ranges) -> dict[str, tuple[float, float]]:
    """The smallest interval per name that holds both; NaN counts as no value."""
    merged = dict(left)
    for name, (low, high) in right.items():
        before = merged.get(name, (low, high))
        merged[name] = (float(np.fmin(low, before[0])), float(np.fmax(high, before[1])))
    return merged


def encoded_ranges(ranges: Ranges) -> dict[str, list[float | str]]:
    return {name: [encoded(low), encoded(high)] for name, (low, high) in ranges.items()}


def decoded_ranges(content: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """What `encoded_ranges` gave."""
    return {name: (decoded(low), decoded(high)) for name, (low, high) in content.items()}
