"""What a scan has measured so far, beside the result that it works for.

The file is `<result>.partial.json`: a calibration table of the samples seen so far, which
`--table` and `merge` take, with one more key, "resume". That holds, for each kind of scan
(maxima, counts), what it measured, which positions of the data it read, and a key: SHA-256 of
all that decides what is measured. A killed process leaves it; the same command goes on from it
and, since tallies add up in any order, comes to the identical table.

What was read is trusted only where the data still looks the same: the names of all samples are
in the key, and the size and time of each file that was read is in the stamps.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lipcompile.atomic import write_bytes
from lipcompile.calibration.coverage import Coverage
from lipcompile.calibration.json_values import of_type
from lipcompile.calibration.table import CalibrationTable
from lipcompile.calibration.tally import Tally
from lipcompile.errors import OutputError, SaveError

SECONDS = 5.0  # between writes; each costs some ten milliseconds
_MAX_BYTES = 1 << 30
_MODULUS = 1 << 64
_DAMAGED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
_log = logging.getLogger(__name__)

Phase = Literal["maxima", "counts"]


@dataclass(frozen=True, slots=True)
class ScanState:
    """Where a scan stands.

    Attributes:
        tally: What it measured.
        covered: Which positions of the source it read.
        stamps: Sum, modulo 2^64, of hashes of what the files at these positions looked like.
        provider: The execution provider that was active first; "" before anything ran.
    """

    tally: Tally = field(default_factory=Tally)
    covered: Coverage = field(default_factory=Coverage)
    stamps: int = 0
    provider: str = ""

    def __add__(self, other: ScanState) -> ScanState:
        return ScanState(
            self.tally + other.tally,
            self.covered | other.covered,
            (self.stamps + other.stamps) % _MODULUS,
            self.provider or other.provider,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "covered": [list(interval) for interval in self.covered.intervals],
            "stamps": self.stamps,
            "provider": self.provider,
            "tally": self.tally.to_json(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ScanState:
        """Reads what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: It is damaged.
        """
        intervals = tuple(
            (of_type(int, start), of_type(int, stop)) for start, stop in content["covered"]
        )
        return cls(
            Tally.from_json(content["tally"]),
            Coverage(intervals),
            of_type(int, content["stamps"]),
            of_type(str, content["provider"]),
        )


def stamp_hash(position: int, stamp: str) -> int:
    """The hash of one stamp, for `ScanState.stamps`."""
    digest = hashlib.sha256(f"{position}\0{stamp}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


class Journal:
    """The file of one result.

    A journal that cannot be written is no reason to lose a scan: it says so, once, and the
    scan goes on; the next write may work.

    Args:
        path: The file.
        resume: Whether to go on from what it holds.
        active: Whether to write it now and then. If not, only `save` does.
    """

    def __init__(self, path: Path, *, resume: bool = True, active: bool = True) -> None:
        self.path = path
        self.active = active
        self._last = time.monotonic()
        self._told = False
        self._entries: dict[str, dict[str, Any]] = self._read() if resume and active else {}

    def restore(self, phase: Phase, key: str) -> ScanState | None:
        """Where the scan with this key stood, if it is in the file."""
        entry = self._entries.get(phase)
        if entry is None:
            return None
        try:
            if entry["key"] == key:
                return ScanState.from_json(entry["state"])
        except _DAMAGED as error:
            self.told(f"is damaged ({error}): starting afresh")
            return None
        self.told("is of other data or settings: starting afresh")
        return None

    def keep(
        self, phase: Phase, key: str, state: ScanState, table: Callable[[], CalibrationTable]
    ) -> None:
        """Notes where the scan stands; writes when the last write is some seconds ago."""
        self._entries[phase] = {"key": key, "state": state}
        if not self.active or time.monotonic() - self._last < SECONDS:
            return
        try:
            self.save(table())
        except (OutputError, SaveError) as error:
            if not self._told:
                self.told(f"what was measured so far could not be kept ({error})")
            self._told = True

    def save(self, table: CalibrationTable) -> None:
        """Writes the table, and all that was kept, atomically.

        Raises:
            OutputError, SaveError: It cannot be written.
        """
        resume = {
            phase: {
                "key": entry["key"],
                "state": state.to_json() if isinstance(state, ScanState) else state,
            }
            for phase, entry in self._entries.items()
            for state in [entry["state"]]
        }
        content = {**table.to_json(), "resume": resume}
        write_bytes(self.path, (json.dumps(content, allow_nan=False) + "\n").encode())
        self._last = time.monotonic()

    def told(self, text: str) -> None:
        """Says something about the file, for example why it is not gone on from."""
        _log.warning("'%s': %s", self.path, text)

    def become(self, table: CalibrationTable, target: Path) -> None:
        """Writes the table to `target`, and removes the file: in one step where there is one,
        so that a process that is killed leaves the one or the other.

        Raises:
            OutputError, SaveError: It cannot be written.
        """
        if self.active and self.path.exists() and not target.exists():
            table.save(self.path)
            os.replace(self.path, target)
        else:
            table.save(target)
            self.remove()

    def remove(self) -> None:
        """Removes the file: the result that it was for is written."""
        if self.active and self._entries:
            self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            if self.path.stat().st_size > _MAX_BYTES:
                return {}
            content = json.loads(self.path.read_bytes())
            return dict(of_type(dict, content["resume"]))
        except FileNotFoundError:
            return {}
        except (OSError, *_DAMAGED) as error:
            self.told(f"cannot be gone on from ({error}): starting afresh")
            return {}


def beside(result: Path) -> Path:
    """Where the journal of a result stands."""
    return result.with_suffix(".partial.json")
