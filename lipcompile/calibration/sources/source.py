"""A source: names samples, and loads them one by one or several at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Literal, final

from lipcompile.calibration.sources.reading_ahead import read_ahead
from lipcompile.calibration.sources.sample import Sample
from lipcompile.errors import DataError

Kind = Literal[
    "images", "list", "npy", "npz", "tar", "arrow", "parquet", "iterable", "reader", "random"
]
Load = Callable[[], Sample]


@dataclass(frozen=True, slots=True)
class Origin:
    """How another process finds the very same samples, without reading them.

    Attributes:
        listing: SHA-256, in hexadecimal, of what tells all samples before a subset or a shard
            was taken: their names, and the size and time of a file that holds many.
        stamp: By position in the source, what changes when the sample is replaced, such as
            the size and the time of its file; "" where the listing tells.
    """

    listing: Callable[[], str]
    stamp: Callable[[int], str] = field(default=lambda _: "")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What loading one sample came to: the sample, or why there is none."""

    position: int
    name: str
    loaded: Sample | DataError


@final
@dataclass(slots=True)
class Source:
    """Calibration samples, read one by one.

    Every bad sample passes through `outcomes`, so no kind of source can drop one unseen.

    Attributes:
        kind: What was opened.
        label: For provenance: a base name, never an absolute path.
        count: Samples that iteration attempts, or None where that is unknown.
        pending: Starts the reading at a position: pairs of a name and the function that loads
            the sample.
        indexed: Whether reading may start anywhere, in any process that has the data.
        threaded: Whether several threads may load samples: not where code of the user's gives
            them.
        origin: Where the samples lie; None for data that this process alone has.
        skip_bad: Whether bad samples are skipped.
        skipped: Names of the bad samples skipped since iteration began.
    """

    kind: Kind
    label: str
    count: int | None
    pending: Callable[[int], Iterator[tuple[str, Load]]]
    indexed: bool = False
    threaded: bool = False
    origin: Origin | None = None
    skip_bad: bool = False
    skipped: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Sample]:
        """The samples that can be used.

        Raises:
            DataError: A sample is bad and `skip_bad` is off, or none was good.
        """
        self.skipped = []
        good, first = 0, None
        for outcome in self.outcomes():
            if isinstance(outcome.loaded, Sample):
                good += 1
                yield outcome.loaded
            else:
                self.skipped.append(outcome.name)
                first = first or outcome.loaded
        if not good:
            raise self.nothing_usable(len(self.skipped), first)

    def outcomes(
        self, start: int = 0, stop: int | None = None, threads: int | None = 0
    ) -> Iterator[Outcome]:
        """Loads the samples at positions from `start` up to `stop`, in order.

        Args:
            start: Position of the first.
            stop: Behind the last; None for all.
            threads: How many load ahead of the caller, as for `read_ahead`. A source that is
                not `threaded` loads in the caller's thread.

        Raises:
            DataError: A sample is bad and `skip_bad` is off.
        """
        length = None if stop is None else max(stop - start, 0)
        pending = islice(self.pending(start), length)
        tasks = (partial(_load, start + i, *task) for i, task in enumerate(pending))
        for outcome in read_ahead(tasks, threads if self.threaded else 0):
            if isinstance(outcome.loaded, DataError) and not self.skip_bad:
                raise outcome.loaded
            yield outcome

    def nothing_usable(self, bad: int, first: DataError | None) -> DataError:
        """The error of a source that gave no good sample, but `bad` ones, with the `first`."""
        why = f"; first: {first}" if first is not None else ""
        if bad:
            error = DataError(f"all {bad} samples of '{self.label}' are bad{why}")
            error.__cause__ = first
            return error
        return DataError(
            f"calibration data '{self.label}' gave no sample: it is empty, or an iterator"
            " that was already read; give at least one sample"
        )


def _load(position: int, name: str, load: Load) -> Outcome:
    try:
        return Outcome(position, name, replace(load(), position=position))
    except DataError as error:
        return Outcome(position, name, error)


def indexed_source(
    kind: Kind,
    label: str,
    indices: Sequence[int],
    name: Callable[[int], str],
    load: Callable[[str, int], Sample],
    *,
    threaded: bool = True,
    origin: Origin | None = None,
) -> Source:
    """A source that reads the samples at `indices`, each by its name and its index.

    The stamp of `origin` takes an index as well.
    """
    if origin is not None:
        of_index = origin.stamp
        origin = replace(origin, stamp=lambda position: of_index(indices[position]))
    return Source(
        kind,
        label,
        len(indices),
        lambda start: ((name(i), partial(load, name(i), i)) for i in indices[start:]),
        True,
        threaded,
        origin,
    )


def listing_digest(names: Iterable[str]) -> str:
    """SHA-256 of texts in their order, in hexadecimal."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()
