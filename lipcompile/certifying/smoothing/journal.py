"""What an interrupted smoothing has already counted: one file, replaced every few seconds.

It holds the outcomes of finished images, the tally of the one in progress, a key (SHA-256 of
all that decides the result) and a digest of itself. Since draw t of an image depends on
nothing else, going on from a tally gives the very counts of a run that was never interrupted.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lipcompile.atomic import write_bytes
from lipcompile.bounded_files import read_bounded
from lipcompile.certifying.smoothing.outcome import Outcome
from lipcompile.certifying.smoothing.procedures import Tally
from lipcompile.errors import LipCompileError

SECONDS = 5.0  # between writes
_FORMAT = "lipcompile.smoothing/1"
_DAMAGED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    Attributes:
        outcomes: Of the first images, finished.
        tally: Of the next one.
    """

    outcomes: tuple[Outcome, ...] = ()
    tally: Tally = field(default_factory=Tally)


class Journal:
    """The file of one run, or nothing where no path is given.

    A journal that cannot be written is no reason to lose a run: it is noted, once.

    Args:
        path: The file; None keeps nothing.
        key: What decides the result.
        images: How many there are.

    Attributes:
        notes: What a reader of the result has to know.
    """

    def __init__(self, path: Path | None, key: Mapping[str, Any], images: int) -> None:
        self.path = path
        self.notes: list[str] = []
        text = json.dumps({"format": _FORMAT, **key}, sort_keys=True)
        self._key = hashlib.sha256(text.encode()).hexdigest()
        self._images = images
        self._last = time.monotonic()

    def restore(self) -> Progress:
        """Where the run with this key stood; its beginning where the file does not tell."""
        if self.path is None or not self.path.exists():
            return Progress()
        try:
            content = json.loads(read_bounded(self.path))
            if content["digest"] != _digest(content["key"], content["progress"]):
                raise ValueError("its digest is another")
            if content["key"] != self._key:
                self._say("is of another model, other data or other settings")
                return Progress()
            found = content["progress"]
            outcomes = tuple(Outcome.from_json(one) for one in found["outcomes"])
            if len(outcomes) > self._images:
                raise ValueError("it has too many images")
            return Progress(outcomes, Tally.from_json(found["tally"]))
        except (OSError, *_DAMAGED) as error:
            self._say(f"is damaged ({error})")
            return Progress()

    def keep(self, progress: Progress) -> None:
        """Writes when the last write is some seconds ago."""
        if time.monotonic() - self._last >= SECONDS:
            self.save(progress)

    def save(self, progress: Progress) -> None:
        """Writes now."""
        if self.path is None:
            return
        content = {
            "outcomes": [outcome.to_json() for outcome in progress.outcomes],
            "tally": progress.tally.to_json(),
        }
        whole = {
            "key": self._key,
            "progress": content,
            "digest": _digest(self._key, content),
        }
        try:
            write_bytes(self.path, json.dumps(whole, allow_nan=False).encode())
        except (OSError, LipCompileError) as error:
            note = f"the journal '{self.path}' could not be written ({error})"
            if note not in self.notes:
                self.notes.append(note)
        self._last = time.monotonic()

    def _say(self, what: str) -> None:
        self.notes.append(f"the journal '{self.path}' {what}: started afresh")


def _digest(key: str, progress: Any) -> str:
    text = json.dumps([key, progress], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
