"""Arrow and parquet files: their rows come in blocks that are read one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar, final

from lipcompile.calibration.sources.files import Files
from lipcompile.errors import DataError, LipCompileError

_MOST_BYTES = 2 << 30


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
    """A file is one block, and mapped into memory: the system reads what is looked at."""

    kept = 8

    def outline(self, files: Files, name: str) -> tuple[Any, list[int]]:
        table = self.block(files, name, 0, ())
        return table.schema, [table.num_rows]

    def block(self, files: Files, name: str, number: int, columns: Sequence[str]) -> Any:
        path = files.local(name)
        if path is None:
            raise DataError(
                f"'{name}' is an Arrow file, which is read where it lies on this machine only:"
                " copy it here, or give parquet files"
            )
        pa = import_module("pyarrow")
        with damage_told(name):
            source = pa.memory_map(str(path))
            table = _mapped(pa, source)
            return table.select(list(columns)) if columns else table


def _mapped(pa: Any, source: Any) -> Any:
    """The table in a mapped file, which may be an Arrow stream or an Arrow file.

    Raises:
        ValueError: It is compressed, so that it would be unpacked into memory.
    """
    if source.read(6) == b"ARROW1":
        source.seek(0)
        reader = pa.ipc.open_file(source)
        batches = map(reader.get_batch, range(reader.num_record_batches))
    else:
        source.seek(0)
        reader = pa.ipc.open_stream(source)
        batches = iter(reader)
    held, room = [], 2 * source.size() + (1 << 20)
    for batch in batches:
        held.append(batch)
        # batch.nbytes would follow offsets that may be damaged, and crash.
        room -= batch.get_total_buffer_size()
        if room < 0:
            raise ValueError("it is compressed, and would be unpacked into memory as a whole")
    return pa.Table.from_batches(held, reader.schema)


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
