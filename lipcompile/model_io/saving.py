"""Save a rendered model and its external data, or hand it back as the caller's kind."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from lipcompile.atomic import copy_file, taking_turns, write_bytes
from lipcompile.errors import ModelError, OutputError, SaveError
from lipcompile.external_data import ExternalRange, sampled_digest
from lipcompile.model_io.reading import LoadedModel
from lipcompile.model_io.rendering import relocate, serialize

_SEARCHED_BYTES = 64 << 20  # a larger model is taken to use whatever lies beside it


def give_back(source: LoadedModel, proto: onnx.ModelProto) -> Any:
    """Returns `proto` as the kind of object that was handed in (for a path, a proto)."""
    if source.kind == "ir":
        model = ir.from_proto(proto)
        if source.base_dir is not None:
            ir.external_data.set_base_dir(model.graph, source.base_dir)
        return model
    if source.kind == "graphsurgeon":
        import onnx_graphsurgeon

        return onnx_graphsurgeon.import_onnx(proto)
    return proto


def paths_among(*given: object) -> tuple[Path, ...]:
    """The arguments that are paths: what a result must not be written over."""
    return tuple(Path(item) for item in given if isinstance(item, (str, os.PathLike)))


def beside(model: Path, ending: str) -> Path:
    """The default place of a result: the model's path with another ending.

    Raises:
        ModelError: `model` names no file, such as "." or "/".
    """
    if not model.name:
        raise ModelError(f"'{model}' is a folder, and a model is a file: name an .onnx file")
    return model.with_suffix(ending)


def check_output(output: Path, force: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Refuses an output that cannot or must not be written, before any long work starts.

    Raises:
        OutputError: `output` is a folder, one of `inputs`, exists without `force`, or its
            folder is missing or not writable.
    """
    if os.path.isdir(output):  # unlike Path.is_dir, it does not raise
        raise OutputError(f"output '{output}' is a folder: name a file in it with -o")
    try:
        output.exists()
    except OSError as error:
        raise OutputError(
            f"output '{output}' cannot be a file ({error.strerror}): choose another with -o"
        ) from error
    for path in inputs:
        if output.exists() and os.path.exists(path) and os.path.samefile(output, path):
            raise OutputError(
                f"output '{output}' is the input itself, which is never touched: "
                "name another file with -o"
            )
    if output.exists() and not force:
        raise OutputError(
            f"output '{output}' exists: pass --force to replace it, or name another with -o"
        )
    if not output.parent.is_dir():
        raise OutputError(f"folder '{output.parent}' does not exist: create it, or change -o")
    if not os.access(output.parent, os.W_OK):
        raise OutputError(f"folder '{output.parent}' is not writable: change -o")


def save(source: LoadedModel, proto: onnx.ModelProto, output: Path) -> tuple[Path, ...]:
    """Writes `proto` to `output`, and its external data beside it.

    Data files are copied as they are, to `<name>.<digest>.data`: a name that depends on the
    content, so that the old model and its data stay whole until the new model, written last,
    takes its place.

    Args:
        source: The model that `proto` was rendered from.
        proto: The edited model, not modified.
        output: The file to write; replaced if it exists.

    Returns:
        The files that were written, the model first.

    Raises:
        OutputError: `output` cannot be written, or is one of the model's own data files.
        SaveError: Writing failed; what stood at `output` still does.
    """
    check_output(output, force=True, inputs=tuple(item.path for item in source.external))
    with taking_turns(output.parent):  # else one would take the other's data for stale
        return _save(source, proto, output)


def _save(source: LoadedModel, proto: onnx.ModelProto, output: Path) -> tuple[Path, ...]:
    stale = _stale_data(output)
    files = _files(source)
    targets = _free_names(source, files, output)
    fresh = {target for target in targets.values() if not target.exists()}
    try:
        for location, target in targets.items():
            if target in fresh:
                copy_file(files[location][0].path, target)
        write_bytes(output, serialize(_relocated(proto, targets)))
    except BaseException:
        for path in fresh:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise
    needed = {p.resolve() for p in (*targets.values(), *(i.path for i in source.external))}
    with contextlib.suppress(OSError):  # the result stands; what is left over may stay
        for path in stale:
            if path.resolve() not in needed and not _is_named_elsewhere(path, output):
                path.unlink(missing_ok=True)
    return (output, *targets.values())


def _free_names(
    source: LoadedModel, files: Mapping[str, Sequence[ExternalRange]], output: Path
) -> dict[str, Path]:
    try:
        return {location: _free_name(location, files[location], output) for location in files}
    except OSError as error:
        raise SaveError(
            f"external data of '{source.name}' cannot be read ({error.strerror}), so "
            f"'{output}' was not written: put it back, and run again"
        ) from error


def _relocated(proto: onnx.ModelProto, targets: Mapping[str, Path]) -> onnx.ModelProto:
    if not targets:
        return proto
    moved = onnx.ModelProto()
    moved.CopyFrom(proto)
    relocate(moved, {location: target.name for location, target in targets.items()})
    return moved


def with_plain_locations(source: LoadedModel, proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` with its external data in files "0", "1", ...: to compare two saved models."""
    names = {location: Path(str(i)) for i, location in enumerate(_files(source))}
    return _relocated(proto, names)


def _files(source: LoadedModel) -> dict[str, list[ExternalRange]]:
    """What lies in each file of external data, by location."""
    files: dict[str, list[ExternalRange]] = {}
    for item in source.external:
        files.setdefault(item.location, []).append(item)
    return files


def _free_name(location: str, held: Sequence[ExternalRange], output: Path) -> Path:
    """`<name>.<digest>.data`: unused, or a file of the same bytes, which need no copy.

    The digest is of sampled blocks, so files of one name may differ; none is ever overwritten.
    """
    digest = hashlib.sha256(location.encode())
    for item in held:
        digest.update(sampled_digest(item))
    original, mark = held[0].path, digest.hexdigest()[:8]
    marks = itertools.chain([mark], (f"{mark}-{count}" for count in itertools.count(1)))
    names = (output.with_name(f"{output.name}.{mark}.data") for mark in marks)
    return next(n for n in names if not n.exists() or filecmp.cmp(original, n, shallow=False))


def _stale_data(output: Path) -> set[Path]:
    """Data files that an earlier save of `output` wrote; no other file is ever removed."""
    if not output.is_file():
        return set()
    ours = re.compile(re.escape(output.name) + r"\.[0-9a-f]{8}(-\d+)?\.data")
    return {path for path in output.parent.iterdir() if ours.fullmatch(path.name)}


def _is_named_elsewhere(data: Path, output: Path) -> bool:
    """Whether another model in the folder may keep its weights in `data` (a copy of ours)."""
    return any(
        path.name != output.name and path.is_file() and _may_name(path, data.name)
        for path in data.parent.glob("*.onnx")
    )


def _may_name(model: Path, data: str) -> bool:
    try:
        large = model.stat().st_size > _SEARCHED_BYTES
        return large or data.encode() in model.read_bytes()
    except OSError:  # a model that only others may read
        return True
