"""What files hold, told by their suffixes: opens a folder, a file or a set of shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.sources.array_files import (
    ARRAY_SUFFIXES,
    parse_arrays,
    read_arrays,
)
from lipcompile.calibration.sources.dataset_folders import check_one_split, saved_files
from lipcompile.calibration.sources.files import Files, suffix_of
from lipcompile.calibration.sources.image_files import IMAGE_SUFFIXES, image_reader
from lipcompile.calibration.sources.items import item_sample
from lipcompile.calibration.sources.list_files import LIST_SUFFIXES, parse_list
from lipcompile.calibration.sources.picking import Pick
from lipcompile.calibration.sources.sample import Sample
from lipcompile.calibration.sources.source import (
    Kind,
    Origin,
    Source,
    indexed_source,
    listing_digest,
)
from lipcompile.calibration.sources.stacks import open_stack
from lipcompile.calibration.sources.tables import (
    ARROW_SUFFIXES,
    PARQUET_SUFFIXES,
    open_tables,
)
from lipcompile.calibration.sources.tars import TAR_SUFFIXES, open_tars
from lipcompile.errors import DataError
from lipcompile.signature import TensorSpec

_PACKED: Final = (".gz", ".tgz", ".bz2", ".xz", ".zst")
_SHARDS: Final = frozenset([*TAR_SUFFIXES, *ARROW_SUFFIXES, *PARQUET_SUFFIXES])


@final
@dataclass(frozen=True, slots=True)
class Opening:
    """Opens files as samples.

    Attributes:
        files: Where they lie.
        inputs: The model's inputs.
        preprocess: Gives the transform; called only for images.
        pick: Chooses the indices of the samples that are read.
    """

    files: Files
    inputs: Sequence[TensorSpec]
    preprocess: Callable[[], Preprocess] | None
    pick: Pick

    def folder(self) -> Source:
        """The samples below the root.

        Raises:
            DataError: It holds nothing that can be used, or data of several kinds.
        """
        label = self.files.label
        found = self.files.find(IMAGE_SUFFIXES | _SHARDS | {*ARRAY_SUFFIXES, ".json"})
        if saved := saved_files(self.files, label, found):
            return self.shards(label, saved)
        found = [name for name in found if suffix_of(name) != ".json"]
        if names := [name for name in found if suffix_of(name) in _SHARDS]:
            others = [name for name in found if suffix_of(name) != suffix_of(names[0])]
            if others:
                raise DataError(
                    f"folder '{label}' holds data of several kinds, such as '{names[0]}' and"
                    f" '{others[0]}': name a folder, or files, of one kind"
                )
            check_one_split(label, names)
            return self.shards(label, names)
        if names := [name for name in found if suffix_of(name) in IMAGE_SUFFIXES]:
            return self._images("images", label, names)
        return self._arrays(label, found)

    def file(self, name: str) -> Source:
        """The samples in one file.

        Raises:
            DataError: It cannot be used.
        """
        suffix = suffix_of(name)
        if suffix in LIST_SUFFIXES:
            return self._images("list", name, parse_list(self.files.read(name), name))
        if suffix in IMAGE_SUFFIXES:
            return self._images("images", name, [name])
        if suffix in ARRAY_SUFFIXES:
            arrays = self._content(name)
            origin = Origin(lambda: listing_digest([name, self.files.stamp(name)]))
            return open_stack(name, arrays, self.inputs, self.pick, origin)
        return self.shards(name, [name])

    def shards(self, label: str, names: Sequence[str]) -> Source:
        """The samples in files of one kind that hold many samples each.

        Raises:
            DataError: They cannot be used.
        """
        suffix = suffix_of(names[0])
        if suffix in TAR_SUFFIXES:
            return open_tars(label, self.files, names, self.inputs, self.preprocess, self.pick)
        if suffix in ARROW_SUFFIXES or suffix in PARQUET_SUFFIXES:
            return open_tables(
                label, self.files, names, self.inputs, self.preprocess, self.pick
            )
        if suffix in _PACKED:
            raise DataError(
                f"calibration data '{label}' is compressed, so that samples cannot be read"
                " from any place in it: unpack it first (a tar archive stays one .tar)"
            )
        raise DataError(
            f"calibration data '{label}' has the suffix '{suffix}': give a folder of images,"
            " an image, a .txt or .lst list of image paths, a .npy or a .npz file, .tar"
            " shards, or .parquet or .arrow files"
        )

    def _images(self, kind: Kind, label: str, names: Sequence[str]) -> Source:
        read = image_reader(label, self.inputs, self.preprocess)
        return self._one_each(
            kind, label, names, lambda name: read(name, self.files.read(name))
        )

    def _arrays(self, label: str, names: Sequence[str]) -> Source:
        if not names:
            raise DataError(
                f"folder '{label}' holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}) and"
                " no .npy or .npz files; hidden files and linked folders are not read: check"
                " the path"
            )

        def load(name: str) -> Sample:
            return item_sample(name, self._content(name), self.inputs)

        kind: Kind = "npz" if any(name.lower().endswith("z") for name in names) else "npy"
        return self._one_each(kind, label, names, load)

    def _content(self, name: str) -> np.ndarray | dict[str, np.ndarray]:
        path = self.files.local(name)
        if path is not None:
            return read_arrays(path, name)
        return parse_arrays(self.files.read(name), name)

    def _one_each(
        self, kind: Kind, label: str, names: Sequence[str], load: Callable[[str], Sample]
    ) -> Source:
        """A source with one file a sample."""
        return indexed_source(
            kind,
            label,
            self.pick(len(names)),
            names.__getitem__,
            lambda name, _: load(name),
            origin=Origin(lambda: listing_digest(names), lambda i: self.files.stamp(names[i])),
        )
