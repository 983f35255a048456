"""Which samples a table was measured on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lipcompile.calibration.json_values import of_type
from lipcompile.calibration.shards import ShardRecord
from lipcompile.calibration.sketch import Sketch, from_text, to_text


@dataclass(frozen=True, slots=True)
class DataRecord:
    """Which samples were seen.

    Attributes:
        kind: "images", "npz", ... ; "random" is data that no one collected.
        label: Base name of the source.
        samples: How many samples entered the maxima.
        digest: Sum modulo 2^256 of the SHA-256 of each sample, in hexadecimal: the same for
            any order, and additive under merging.
        unreadable: Samples that were left out because they could not be read.
        nonfinite: Samples that were left out because they made a site NaN or infinite.
        sketch: Hashes of some of the samples, to find overlaps (`calibration.sketch`).
        shards: Which shards they are, where some are missing.
    """

    kind: str
    label: str
    samples: int
    digest: str
    unreadable: tuple[str, ...] = ()
    nonfinite: tuple[str, ...] = ()
    sketch: Sketch = ()
    shards: ShardRecord | None = None

    def to_json(self) -> dict[str, Any]:
        shards = {"shards": self.shards.to_json()} if self.shards is not None else {}
        return {
            "kind": self.kind,
            "label": self.label,
            "samples": self.samples,
            "digest": self.digest,
            "unreadable": list(self.unreadable),
            "nonfinite": list(self.nonfinite),
            "sketch": to_text(self.sketch),
            **shards,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> DataRecord:
        """Reads what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: It is damaged.
        """
        record = cls(
            of_type(str, content["kind"]),
            of_type(str, content["label"]),
            of_type(int, content["samples"]),
            of_type(str, content["digest"]),
            tuple(of_type(str, name) for name in of_type(list, content["unreadable"])),
            tuple(of_type(str, name) for name in of_type(list, content["nonfinite"])),
            from_text(of_type(str, content.get("sketch", ""))),
            ShardRecord.from_json(content.get("shards")),
        )
        if record.samples < 0 or not re.fullmatch("[0-9a-f]{64}", record.digest):
            raise ValueError(f"{record.samples} samples with digest '{record.digest}'")
        return record
