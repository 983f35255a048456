"""Arrow and parquet files: their rows come in blocks that are read one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from typing import Any, ClassVar, final

from lipcompile.calibration.sources.files import Files
from lipcompile.errors import DataError, LipCompileError

_MOST_BYTES = 2 << 30
_RUN_BYTES = 16 << 20


class TableFormat(ABC):
    """One format of tables.

    Attributes:
        kept: How many blocks are worth holding in memory.
    """

    kept: ClassVar[int]

    @abstractmethod
    def outline(self, files: Files, name: str) -> tuple[Any, list[int]]:
        """pyarrow's schema of a file, and the number of rows of each of its blocks.

        Raises:
            DataError: It cannot be read.
        """

    @abstractmethod
    def block(self, files: Files, name: str, number: int, columns: Sequence[str]) -> Any:
        """Some columns of a block, as a pyarrow table.

        Raises:
            DataError: It cannot be read.
        """


@final
class Parquet(TableFormat):
    """Blocks are row groups, which are decoded as a whole."""

    kept = 3

    def outline(self, files: Files, name: str) -> tuple[Any, list[int]]:
        with _opened_parquet(files, name) as file:
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            largest = max((group.total_byte_size for group in groups), default=0)
            if largest > _MOST_BYTES:
                raise DataError(
                    f"'{name}' has a row group of {largest} bytes, which would have to be in"
                    f" memory as a whole, and the limit is {_MOST_BYTES}: write it again with"
                    " fewer rows in a group (row_group_size)"
                )
            return file.schema_arrow, [group.num_rows for group in groups]

    def block(self, files: Files, name: str, number: int, columns: Sequence[str]) -> Any:
        with _opened_parquet(files, name) as file:
            return file.read_row_group(number, columns=list(columns), use_threads=False)


@final
class Arrow(TableFormat):
    """Blocks are neighbouring record batches, mapped into memory, not read.

    A block that is dropped is unmapped, so that the pages that were looked at do not add up.
    """

    kept = 2

    def outline(self, files: Files, name: str) -> tuple[Any, list[int]]:
        with _mapped(files, name) as (schema, runs):
            return schema, [sum(batch.num_rows for batch in run) for run in runs]

    def block(self, files: Files, name: str, number: int, columns: Sequence[str]) -> Any:
        with _mapped(files, name) as (schema, runs):
            run = next(islice(runs, number, None), None)
            if run is None:
                raise ValueError("it has become shorter")
            return import_module("pyarrow").Table.from_batches(run, schema).select([*columns])


@contextmanager
def _mapped(files: Files, name: str) -> Iterator[tuple[Any, Iterator[list[Any]]]]:
    """The schema of an Arrow stream or file, and its batches in runs of at least 16 MiB."""
    path = files.local(name)
    if path is None:
        raise DataError(
            f"'{name}' is an Arrow file, which is read where it lies on this machine only:"
            " copy it here, or give parquet files"
        )
    ipc = import_module("pyarrow.ipc")
    with damage_told(name), import_module("pyarrow").memory_map(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        reader = ipc.open_file(source) if is_file else ipc.open_stream(source)
        batches = (
            map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
        )
        yield reader.schema, _runs(batches, 2 * source.size() + (1 << 20))


def _runs(batches: Iterable[Any], room: int) -> Iterator[list[Any]]:
    """Groups batches, of which all together may take `room` bytes.

    Raises:
        ValueError: They take more, since they are compressed: they would lie in memory.
    """
    run: list[Any] = []
    size = 0
    for batch in batches:
        # batch.nbytes would follow offsets that may be damaged, and crash.
        length = batch.get_total_buffer_size()
        room -= length
        if room < 0:
            raise ValueError("it is compressed, and would be unpacked into memory as a whole")
        run.append(batch)
        size += length
        if size >= _RUN_BYTES:
            yield run
            run, size = [], 0
    if run:
        yield run


@contextmanager
def _opened_parquet(files: Files, name: str) -> Iterator[Any]:
    path = files.local(name)
    source = files.open(name) if path is None else str(path)
    try:
        with damage_told(name), import_module("pyarrow.parquet").ParquetFile(source) as file:
            yield file
    finally:
        if not isinstance(source, str):
            source.close()


@contextmanager
def damage_told(name: str) -> Iterator[None]:
    """Makes a DataError of what pyarrow raises on the damaged file, or row, `name`."""
    try:
        yield
    except LipCompileError:
        raise
    except Exception as err:  # ArrowException, OSError, KeyError, UnicodeDecodeError, ...
        cause = str(getattr(err, "strerror", None) or err or type(err).__name__)
        raise DataError(
            f"data file '{name}' cannot be read ({cause.splitlines()[0][:200]}): write it, or"
            " download it, again"
        ) from err
