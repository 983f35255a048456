"""A source: names samples, and loads them one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, final

from lipcompile.calibration.sources.sample import Sample
from lipcompile.errors import DataError

Kind = Literal["images", "list", "npy", "npz", "iterable", "reader", "random"]
Load = Callable[[], Sample]
Pick = Callable[[int], Sequence[int]]


@final
@dataclass(slots=True)
class Source:
    """Calibration samples, read one by one.

    Every bad sample passes through `__iter__`, so no kind of source can drop one unseen.

    Attributes:
        kind: What was opened.
        label: For provenance: a base name, never an absolute path.
        count: Samples that iteration attempts, or None where that is unknown.
        pending: Starts the reading: pairs of a name and the function that loads the sample.
        skip_bad: Whether bad samples are skipped.
        skipped: Names of the bad samples skipped since iteration began.
    """

    kind: Kind
    label: str
    count: int | None
    pending: Callable[[], Iterator[tuple[str, Load]]]
    skip_bad: bool = False
    skipped: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Sample]:
        """The samples that can be used.

        Raises:
            DataError: A sample is bad and `skip_bad` is off, or none was good.
        """
        self.skipped = []
        good, first = 0, None
        for name, load in self.pending():
            try:
                sample = load()
            except DataError as err:
                if not self.skip_bad:
                    raise
                self.skipped.append(name)
                first = first or err
                continue
            good += 1
            yield sample
        if good:
            return
        if first is not None:
            raise DataError(
                f"all {len(self.skipped)} samples of '{self.label}' are bad; first: {first}"
            ) from first
        raise DataError(
            f"calibration data '{self.label}' gave no sample: it is empty, or an iterator"
            " that was already read; give at least one sample"
        )


def indexed_source(
    kind: Kind,
    label: str,
    indices: Sequence[int],
    name: Callable[[int], str],
    load: Callable[[str, int], Sample],
) -> Source:
    """A source that reads the samples at `indices`, each by its name and its index."""
    return Source(
        kind,
        label,
        len(indices),
        lambda: ((name(i), partial(load, name(i), i)) for i in indices),
    )
