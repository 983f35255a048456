"""The result of a calibration: max |x| per site, bound to model, preprocessing and data.

Maxima form a commutative monoid, and so do the digest and the number of samples, and counts at
equal thresholds: any batching, sharding or order of the same samples gives the same table, and
tables merge.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lipcompile.atomic import write_bytes
from lipcompile.bounded_files import read_bounded
from lipcompile.calibration.counts import Key, SiteCounts, counted_for, parse_counts, relative
from lipcompile.calibration.data_record import DataRecord
from lipcompile.calibration.json_values import decoded, encoded, of_type
from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.tally import decoded_ranges, encoded_ranges
from lipcompile.errors import DataError, OptionError, TableError
from lipcompile.text import number
from lipcompile.text import table as text_table

FORMAT = "lipcompile.calibration/1"
_MAX_BYTES = 256 << 20
# What reading a table raises when a key is missing or holds something else.
_DAMAGED = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
    DataError,
    OptionError,
)


@dataclass(frozen=True, slots=True)
class SiteRange:
    """One row of the table.

    Attributes:
        tensor: Name of the site's tensor.
        dtype: NumPy name of its element type.
        absmax: max |x| over all samples, exact, in the unit of x; >= 0.
    """

    tensor: str
    dtype: str
    absmax: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.absmax) and self.absmax >= 0):
            raise TableError(
                f"site '{self.tensor}' has absmax {self.absmax}, which is no maximum of "
                "finite activations: calibrate again"
            )


@dataclass(frozen=True, slots=True)
class CalibrationTable:
    """max |x| per site, and what it was measured on.

    Attributes:
        model_digest: Digest of the model (`lipcompile.digest`).
        model: Name of the model, for people.
        sites: One row per site, in graph order.
        data: The samples.
        preprocess: The resolved image transform, or None for data used as it is.
        input_range: For each input the smallest and largest value that was fed.
        runtime: "onnxruntime 1.31.1, CPUExecutionProvider".
        complete: False when the scan was interrupted.
        counts: Suppressed elements by site, axis and threshold, where they were counted. The
            maxima are then those that the thresholds come from, and `data` what was counted.
    """

    model_digest: str
    model: str
    sites: tuple[SiteRange, ...]
    data: DataRecord
    preprocess: Mapping[str, Any] | None
    input_range: Mapping[str, tuple[float, float]]
    runtime: str
    complete: bool = True
    counts: tuple[SiteCounts, ...] = ()
    _maxima: Mapping[str, float] = field(init=False, repr=False, compare=False)
    _counts: Mapping[Key, SiteCounts] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        maxima = {site.tensor: site.absmax for site in self.sites}
        object.__setattr__(self, "_maxima", maxima)
        object.__setattr__(self, "_counts", {row.key: row for row in self.counts})

    def __getitem__(self, tensor: str) -> float:
        """absmax of a site.

        Raises:
            TableError: The table does not hold this site.
        """
        self.require([tensor])
        return self._maxima[tensor]

    def require(self, tensors: Iterable[str]) -> None:
        """Refuses to lack one of these sites.

        Raises:
            TableError: The table does not hold one of them.
        """
        for tensor in tensors:
            if tensor not in self._maxima:
                raise TableError(
                    f"the calibration table of '{self.model}' has no site '{tensor}': "
                    "calibrate again with the same --rule, --include and --exclude as here, "
                    "or with --rule all"
                )

    def counts_at(self, tensor: str, axis: int, c: float) -> SiteCounts:
        """The counts of a site for one axis of features and one threshold.

        Raises:
            TableError: They were not taken.
        """
        row = self._counts.get((tensor, axis, c))
        if row is not None:
            return row
        held = f"has counts for {counted}" if (counted := self._counted()) else "has no counts"
        raise TableError(
            f"counts for c_r = {relative(c, self[tensor])} at site '{tensor}' were not taken "
            f"(the calibration table of '{self.model}' {held}): calibrate with --count-cr, or "
            "pass --calib"
        )

    @property
    def digest(self) -> str:
        """ "sha256:..." of what decides the thresholds, for provenance.

        Names of files and the runtime's version are left out: the same data under another
        name has the same digest.
        """
        content = self.to_json()
        for key in ("runtime", "complete"):
            del content[key]
        content["model"] = self.model_digest
        content["data"] = [self.data.samples, self.data.digest]
        return "sha256:" + hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        counts = {"counts": [row.to_json() for row in self.counts]} if self.counts else {}
        return {
            "format": FORMAT,
            "model": {"name": self.model, "digest": self.model_digest},
            "data": self.data.to_json(),
            "preprocess": dict(self.preprocess) if self.preprocess is not None else None,
            "input_range": dict(sorted(encoded_ranges(self.input_range).items())),
            "runtime": self.runtime,
            "complete": self.complete,
            "sites": [
                {"tensor": s.tensor, "dtype": s.dtype, "absmax": encoded(s.absmax)}
                for s in self.sites
            ],
            **counts,
        }

    def _encode(self) -> bytes:
        return (json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n").encode()

    def summary(self) -> list[str]:
        """What the table was measured on, in a few lines for people."""
        data = self.data
        state = "" if self.complete else " (interrupted: not all samples were seen)"
        lines = [
            f"calibrated on {data.samples} samples of '{data.label}' ({data.kind}){state}",
            f"run by {self.runtime}",
        ]
        if data.shards is not None:
            lines.append(f"these are {data.shards} alone: merge the others")
        if self.counts:
            lines.append(f"suppressed elements counted for {self._counted()}")
        if data.kind == "random":
            lines.append("the data is random: thresholds say nothing about real inputs")
        if data.unreadable or data.nonfinite:
            lines.append(
                f"left out: {len(data.unreadable)} unreadable and {len(data.nonfinite)} "
                "non-finite samples"
            )
        if self.preprocess is not None:
            lines.append(f"images: {Preprocess.from_json(self.preprocess)}")
        for name, (low, high) in sorted(self.input_range.items()):
            lines.append(f"input '{name}' in [{number(low)}, {number(high)}]")
        return lines

    def _counted(self) -> str:
        return counted_for(self.counts, self._maxima)

    def __str__(self) -> str:
        rows = [(site.tensor, site.dtype, number(site.absmax)) for site in self.sites]
        listed = text_table(("input of a linear layer", "type", "absmax"), rows)
        return "\n".join(
            [f"{self.model}: {self.model_digest[:19]}", *self.summary(), "", *listed]
        )

    def save(self, path: Path) -> None:
        """Writes the table as JSON, atomically."""
        write_bytes(path, self._encode())

    @classmethod
    def from_json(cls, content: Any) -> CalibrationTable:
        """Reads what `to_json` gave.

        Raises:
            TableError: It is not a calibration table, or a damaged one.
        """
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else None
            shown = f"'{found[:80]}'" if isinstance(found, str) else "missing"
            raise TableError(
                f"this is no calibration table: format {shown}, expected '{FORMAT}'; make "
                "one with 'lipcompile calibrate'"
            )
        try:
            return cls._parse(content)
        except _DAMAGED as error:
            raise TableError(
                f"the calibration table is damaged ({type(error).__name__}: "
                f"{str(error)[:200]}): calibrate again"
            ) from error

    @classmethod
    def _parse(cls, content: Mapping[str, Any]) -> CalibrationTable:
        model = content["model"]
        if content["preprocess"] is not None:
            Preprocess.from_json(of_type(dict, content["preprocess"]))
        tensors = [s["tensor"] for s in content["sites"]]
        if len(set(tensors)) < len(tensors):
            raise ValueError("a site stands in it twice")
        return cls(
            model_digest=of_type(str, model["digest"]),
            model=of_type(str, model["name"]),
            sites=tuple(
                SiteRange(
                    of_type(str, s["tensor"]), of_type(str, s["dtype"]), decoded(s["absmax"])
                )
                for s in of_type(list, content["sites"])
            ),
            data=DataRecord.from_json(content["data"]),
            preprocess=content["preprocess"],
            input_range=decoded_ranges(content["input_range"]),
            runtime=of_type(str, content["runtime"]),
            complete=of_type(bool, content["complete"]),
            counts=parse_counts(content.get("counts", []), tensors),
        )

    def check_model(self, digest: str, name: str) -> None:
        """Refuses to be used with another model.

        Raises:
            TableError: The digests differ.
        """
        if digest != self.model_digest:
            raise TableError(
                f"the calibration table was measured on another model: '{self.model}' "
                f"({self.model_digest[:19]}), and '{name}' is {digest[:19]}: calibrate "
                f"'{name}', or pass the model that the table belongs to (weights moved in or "
                "out of external data count as another model)"
            )


def load_table(path: str | os.PathLike[str]) -> CalibrationTable:
    """Reads a table from a JSON file.

    Raises:
        TableError: Missing, unreadable, too large, not JSON, or no table.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise TableError(f"'{path}' is too large for a calibration table: check the path")
        content = json.loads(read_bounded(path, _MAX_BYTES))
    except OSError as error:
        raise TableError(
            f"calibration table '{path}' cannot be read ({error.strerror}): check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise TableError(
            f"calibration table '{path}' is not JSON ({str(error)[:200]}): make one with "
            "'lipcompile calibrate'"
        ) from error
    return CalibrationTable.from_json(content)
