"""A model's folder in a Triton repository, written so that Triton never sees half of one.

Everything is built in a staging folder and renamed into place. Staging is beside the
repository where it can be, since Triton takes every folder in it for a model.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lipcompile import atomic
from lipcompile.errors import OptionError, OutputError, SaveError
from lipcompile.model_io import LoadedModel
from lipcompile.serving.config import LABELS_FILE, TritonConfig, parse_config

MODEL_FILE = "model.onnx"
CONFIG_FILE = "config.pbtxt"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where one version of a model goes.

    Attributes:
        repository: The folder that Triton is given; made where it does not exist.
        name: Of the model, and of its folder.
        version: A number from 1.
    """

    repository: Path
    name: str
    version: int

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise OptionError(
                f"model name '{self.name}' is not plain: use letters, digits, '_', '-' and "
                "'.' (not in front) in --name, since it becomes a folder and part of URLs"
            )
        if self.version < 1:
            raise OptionError(
                f"model version {self.version} is not legal: Triton counts from 1, and "
                "ignores other folders; give --model-version 1 or more"
            )

    @property
    def model(self) -> Path:
        return self.repository / self.name

    @property
    def folder(self) -> Path:
        """The folder of the version."""
        return self.model / str(self.version)

    def versions(self) -> tuple[int, ...]:
        """The versions that are there."""
        if not self.model.is_dir():
            return ()
        names = [path.name for path in self.model.iterdir() if path.is_dir()]
        return tuple(sorted(int(name) for name in names if re.fullmatch(r"[1-9]\d*", name)))


def check_place(place: Place, source: Path, force: bool) -> None:
    """Refuses a place that cannot or must not be written.

    Raises:
        OutputError: The version exists without `force`, or holds `source`; or a path on the
            way is missing, a file, or not writable.
    """
    for path in (place.repository, place.model, place.folder):
        if path.exists() and not path.is_dir():
            raise OutputError(f"'{path}' is a file, and has to be a folder: change -o")
    parent = place.repository if place.repository.is_dir() else place.repository.parent
    if not parent.is_dir():
        raise OutputError(f"folder '{parent}' does not exist: create it, or change -o")
    for path in (parent, place.model):
        if path.is_dir() and not os.access(path, os.W_OK):
            raise OutputError(f"folder '{path}' is not writable: change -o")
    if not place.folder.is_dir():
        return
    if place.folder.resolve() in source.resolve().parents:
        raise OutputError(
            f"'{source}' lies in the version '{place.folder}' that would be replaced: export "
            "from another copy, or give another --model-version"
        )
    if not force:
        free = max(place.versions()) + 1
        raise OutputError(
            f"version '{place.folder}' exists: pass --model-version {free} to add one, or "
            "--force to replace it"
        )


def merged_config(
    place: Place, config: TritonConfig, labels: str | None, force: bool
) -> TritonConfig:
    """The configuration for all versions of the model: of those there, and of the new one.

    Raises:
        OutputError: The configuration or the labels that are there differ, and `force` is off.
    """
    path = place.model / CONFIG_FILE
    others = {version for version in place.versions() if version != place.version}
    if not path.exists() or (not others and force):
        return config
    old = parse_config(_read(path))
    if not force and old.structure.strip() != config.structure.strip():
        raise OutputError(
            f"'{path}' says otherwise than this export would ({_difference(old, config)}), "
            "and one configuration holds for all versions: export with the flags of the "
            "other versions, under another --name, or pass --force to replace it"
        )
    names = place.model / LABELS_FILE
    if not force and labels is not None and names.exists() and _read(names) != labels:
        raise OutputError(
            f"'{names}' holds other labels, which all versions share: give the same, another "
            "--name, or --force to replace them"
        )
    kept = {version: lines for version, lines in old.claims.items() if version in others}
    return TritonConfig(config.structure, kept | dict(config.claims))


def write_version(
    place: Place, source: LoadedModel, config: TritonConfig, labels: str | None
) -> tuple[Path, ...]:
    """Writes the version, and the configuration of its model.

    Returns:
        The files: the configuration first, then labels, the model and its external data.

    Raises:
        ModelError: As `model_files`.
        OutputError: Something cannot be written.
        SaveError: Writing failed, or the model changed meanwhile; what was there still is.
    """
    try:
        with _made(place.repository), _staging(place.repository) as stage:
            staged = stage / "new" / place.name
            (staged / str(place.version)).mkdir(parents=True)
            _copy_model(source, staged / str(place.version))
            texts = {LABELS_FILE: labels, CONFIG_FILE: str(config)}
            wanted = {name: text.encode() for name, text in texts.items() if text is not None}
            if place.model.is_dir():
                _update(place, staged / str(place.version), wanted, stage / "old")
            else:
                for name, content in wanted.items():
                    atomic.write_bytes(staged / name, content)
                staged.rename(place.model)
    except OSError as error:
        raise _explain(place, error) from error
    names = [name for name in (CONFIG_FILE, LABELS_FILE) if name in wanted]
    return (*(place.model / name for name in names), *_files(source, place.folder))


def _files(source: LoadedModel, folder: Path) -> tuple[Path, ...]:
    locations = dict.fromkeys(item.location for item in source.external)
    return (folder / MODEL_FILE, *(folder / location for location in locations))


def _copy_model(source: LoadedModel, folder: Path) -> None:
    assert source.path is not None
    model, *data = _files(source, folder)
    atomic.copy_file(source.path, model)
    if _sha256(model) != source.file_digest:
        raise SaveError(
            f"'{source.path}' changed while it was exported: run again when it is complete"
        )
    paths = {folder / item.location: item.path for item in source.external}
    for target in data:
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic.copy_file(paths[target], target)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _update(place: Place, new: Path, texts: Mapping[str, bytes], aside: Path) -> None:
    """Puts a version and its texts into a model that exists; all of it, or nothing."""
    aside.mkdir()
    before = [name for name in texts if (place.model / name).exists()]
    for name in before:
        shutil.copy2(place.model / name, aside / name)
    _replace(new, place.folder, aside / "version")
    try:
        for name, content in texts.items():
            atomic.write_bytes(place.model / name, content)
    except BaseException:  # undone by renames alone, which a full disk does not stop
        place.folder.rename(new)
        if (aside / "version").exists():
            (aside / "version").rename(place.folder)
        for name in texts:
            if name in before:
                os.replace(aside / name, place.model / name)
            else:
                (place.model / name).unlink(missing_ok=True)
        raise


def _replace(new: Path, target: Path, aside: Path) -> None:
    """Renames a folder over another, which comes back where that fails."""
    if not target.exists():
        new.rename(target)
        return
    target.rename(aside)
    try:
        new.rename(target)
    except BaseException:
        aside.rename(target)
        raise


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Makes the folder, and takes it away again where nothing came into it."""
    fresh = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        if fresh:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


@contextlib.contextmanager
def _staging(repository: Path) -> Iterator[Path]:
    """An empty folder on the repository's filesystem, removed at the end."""
    above = repository.resolve().parent
    beside = os.access(above, os.W_OK) and above.stat().st_dev == repository.stat().st_dev
    stage = (above if beside else repository) / f".lipcompile-{secrets.token_hex(6)}"
    stage.mkdir()
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise OutputError(
            f"'{path}' cannot be read ({error}): remove it, or give another --name"
        ) from error


def _difference(old: TritonConfig, new: TritonConfig) -> str:
    """The first line in which two configurations differ."""
    before, after = (c.structure.strip().splitlines() for c in (old, new))
    for number, (was, is_) in enumerate(zip(before, after, strict=False), start=1):
        if was != is_:
            return f"line {number}: '{was.strip()}', and here '{is_.strip()}'"
    return f"{len(before)} lines, and here {len(after)}"


def _explain(place: Place, error: OSError) -> OutputError | SaveError:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(
            f"'{place.model}' cannot be written ({error.strerror}): choose a writable "
            "repository with -o"
        )
    return SaveError(f"'{place.folder}' was not written ({error}): run again")
