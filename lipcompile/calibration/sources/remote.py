"""Sources behind a URL, such as s3://bucket/images/, through fsspec."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final

from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.sources.file_kinds import Opening
from lipcompile.calibration.sources.patterns import expand_braces, matching
from lipcompile.calibration.sources.picking import Pick
from lipcompile.calibration.sources.remote_files import (
    RemoteFiles,
    cause_of,
    without_secrets,
)
from lipcompile.calibration.sources.source import Source
from lipcompile.errors import DataError, MissingExtraError
from lipcompile.extras import require_extra
from lipcompile.signature import TensorSpec

_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]+::)*[A-Za-z][A-Za-z0-9+.-]+://")
_PACKAGES: Final = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "hf": "huggingface_hub",
    "http": "aiohttp requests",
    "https": "aiohttp requests",
    "sftp": "paramiko",
}


def is_url(name: str) -> bool:
    """Whether a name is a URL, as fsspec reads them, and no path."""
    return _URL.match(name) is not None


def open_url(
    url: str,
    inputs: Sequence[TensorSpec],
    preprocess: Callable[[], Preprocess] | None,
    pick: Pick,
) -> Source:
    """The samples behind a URL: of the kinds of `open_path`, but for Arrow files.

    Args:
        url: What to read; braces and * may stand in its last part.
        inputs: The model's inputs.
        preprocess: Gives the transform; called only for images.
        pick: Chooses the indices of the samples that are read.

    Raises:
        DataError: There is nothing at `url` that can be used with these inputs.
        MissingExtraError: fsspec, or the package for this protocol, is not installed.
        RunFailure: It cannot be reached.
    """
    require_extra("remote", "fsspec")
    shown = without_secrets(url)
    filesystem, path = _filesystem(url, shown)
    path = path.rstrip("/") or path
    above, name = posixpath.split(path)
    files = RemoteFiles(filesystem, path, shown)
    entry = files.entry("")
    if entry is not None and entry.get("type") == "directory":
        return Opening(files, inputs, preprocess, pick).folder()
    files = RemoteFiles(filesystem, above, shown)
    opening = Opening(files, inputs, preprocess, pick)
    if entry is not None:
        files.note(name, entry)
        return opening.file(name)
    names = expand_braces(name) or matching(name, files)
    for each in names or [name]:
        if files.entry(each) is None:
            raise DataError(
                f"calibration data '{shown}': there is no '{each}': check the URL, and what"
                " the account may read"
            )
    return opening.shards(name, names)


def _filesystem(url: str, shown: str) -> tuple[Any, str]:
    try:
        filesystem, path = import_module("fsspec.core").url_to_fs(url)
    except ImportError as err:
        protocol = shown.split("://")[0].split("::")[-1].lower()
        packages = _PACKAGES.get(protocol)
        remedy = f"pip install {packages}" if packages else "install it beside fsspec"
        raise MissingExtraError(
            f"'{shown}' needs a package that is not installed ({cause_of(err)}): {remedy}"
        ) from err
    except Exception as err:  # unknown protocols, options that miss: of any type
        raise DataError(
            f"'{shown}' cannot be opened ({cause_of(err)}): check the URL, and the settings of"
            " its filesystem"
        ) from err
    return filesystem, str(path)
