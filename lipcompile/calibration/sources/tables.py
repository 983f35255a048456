"""Hugging Face datasets on disk as a source: Arrow and parquet files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, final

import numpy as np

from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.sources.block_cache import BlockCache
from lipcompile.calibration.sources.files import Files, suffix_of
from lipcompile.calibration.sources.image_files import image_reader
from lipcompile.calibration.sources.items import item_sample
from lipcompile.calibration.sources.picking import Pick
from lipcompile.calibration.sources.sample import Sample
from lipcompile.calibration.sources.source import (
    Kind,
    Origin,
    Source,
    indexed_source,
    listing_digest,
)
from lipcompile.calibration.sources.table_formats import (
    Arrow,
    Parquet,
    TableFormat,
    damage_told,
)
from lipcompile.calibration.sources.table_values import (
    feeding_columns,
    image_bytes,
    number_array,
)
from lipcompile.errors import DataError
from lipcompile.extras import require_extra
from lipcompile.signature import TensorSpec

ARROW_SUFFIXES: Final = (".arrow",)
PARQUET_SUFFIXES: Final = (".parquet",)

_Block = tuple[int, int]  # which file, and which block of it


def open_tables(
    label: str,
    files: Files,
    names: Sequence[str],
    inputs: Sequence[TensorSpec],
    preprocess: Callable[[], Preprocess] | None,
    pick: Pick,
) -> Source:
    """The rows of Arrow or parquet files, all of one kind.

    Args:
        label: Name of the data.
        files: Where they lie.
        names: The files, in the order of reading.
        inputs: The model's inputs.
        preprocess: Gives the transform; called only for images.
        pick: Chooses the indices of the samples that are read.

    Raises:
        DataError: A file is damaged, or no column clearly feeds the model.
        MissingExtraError: pyarrow is not installed.
    """
    require_extra("arrow", "pyarrow", "pyarrow.parquet", "pyarrow.compute")
    is_parquet = suffix_of(names[0]) in PARQUET_SUFFIXES
    kind: Kind = "parquet" if is_parquet else "arrow"
    rows = _Rows(label, files, names, Parquet() if is_parquet else Arrow(), inputs)
    load = (
        rows.image_loader(image_reader(label, inputs, preprocess))
        if rows.images
        else rows.array_loader(inputs)
    )
    origin = Origin(
        lambda: listing_digest(text for name in names for text in (name, files.stamp(name)))
    )
    return indexed_source(kind, label, pick(rows.count), rows.name, load, origin=origin)


class _Column(NamedTuple):
    """A column of a block: its pieces, and where each ends."""

    chunks: list[Any]
    ends: np.ndarray

    @classmethod
    def of(cls, column: Any) -> _Column:
        chunks = column.chunks
        return cls(chunks, np.cumsum([len(chunk) for chunk in chunks]))

    def row(self, index: int) -> Any:
        """A pyarrow array of one row; checked, since offsets in a mapped file may be wrong."""
        number = int(np.searchsorted(self.ends, index, "right"))
        chunk = self.chunks[number]
        row = chunk.slice(index - int(self.ends[number]) + len(chunk), 1)
        row.validate(full=True)
        return row


@final
class _Rows:
    """Finds a row in its file's block."""

    def __init__(
        self,
        label: str,
        files: Files,
        names: Sequence[str],
        table_format: TableFormat,
        inputs: Sequence[TensorSpec],
    ) -> None:
        self._names = names
        self._blocks: list[_Block] = []
        counts: list[int] = []
        for number, name in enumerate(names):
            schema, lengths = table_format.outline(files, name)
            with damage_told(name):
                columns, images = feeding_columns(name, schema, inputs)
            if not number:
                self.columns, self.images = columns, images
            elif (columns, images) != (self.columns, self.images):
                raise DataError(
                    f"'{name}' feeds the model by the columns {columns}, and '{names[0]}' by"
                    f" {self.columns}: give files of one dataset"
                )
            self._blocks += [(number, block) for block in range(len(lengths))]
            counts += lengths
        self._ends = np.cumsum(np.array(counts, np.int64))
        self.count = int(self._ends[-1]) if counts else 0
        if not self.count:
            raise DataError(f"'{label}' holds no rows: give at least one")
        owners = np.array([number for number, _ in self._blocks])
        first_blocks = np.searchsorted(owners, np.arange(len(names)))
        self._firsts = np.concatenate([[0], self._ends])[first_blocks]
        self._read = BlockCache(partial(self._block, files, table_format), table_format.kept)

    def _block(
        self, files: Files, table_format: TableFormat, key: _Block
    ) -> dict[str, _Column]:
        table = table_format.block(files, self._names[key[0]], key[1], self.columns)
        return {column: _Column.of(table.column(column)) for column in self.columns}

    def name(self, index: int) -> str:
        """ "FILE[ROW]"."""
        number, _ = self._blocks[self._position(index)]
        return f"{self._names[number]}[{index - self._firsts[number]}]"

    def _position(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, "right"))

    def row(self, name: str, index: int) -> dict[str, Any]:
        """The values of a row by column, each as a pyarrow array of one element.

        Raises:
            DataError: The file is damaged.
        """
        position = self._position(index)
        first = int(self._ends[position - 1]) if position else 0
        with damage_told(name):
            block = self._read(self._blocks[position])
            return {key: column.row(index - first) for key, column in block.items()}

    def image_loader(
        self, read: Callable[[str, bytes], Sample]
    ) -> Callable[[str, int], Sample]:
        def load(name: str, index: int) -> Sample:
            # No variable holds the row: the traceback of a bad image would keep its block.
            with damage_told(name):
                data = image_bytes(self.row(name, index)[self.columns[0]], name)
            return read(name, data)

        return load

    def array_loader(self, inputs: Sequence[TensorSpec]) -> Callable[[str, int], Sample]:
        def load(name: str, index: int) -> Sample:
            with damage_told(name):
                values = self.row(name, index)
                arrays = {key: number_array(value, name, key) for key, value in values.items()}
            return item_sample(name, arrays, inputs)

        return load
