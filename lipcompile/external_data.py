"""Weights that live beside the model: checked, sampled for the digest, and copied; never
loaded.

ONNX keeps a large tensor in a file next to the model and names it by a relative location, an
offset and a length (https://onnx.ai/onnx/repo-docs/ExternalData.html).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from lipcompile.errors import ModelError

_SAMPLE_BYTES = 4096
_SAMPLE_BLOCKS = 16


@dataclass(frozen=True, slots=True)
class ExternalRange:
    """The bytes of one external tensor: `length` of `path` from `offset` on."""

    tensor: str
    location: str
    path: Path
    offset: int
    length: int


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Every external tensor: initializers and attributes, in subgraphs and functions too."""
    for graph in (*model.graphs(), *_function_graphs(model)):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
        for node in graph:
            yield from _attribute_tensors(node)


def _function_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    for function in model.functions.values():
        yield function.graph
        yield from function.subgraphs()


def _attribute_tensors(node: ir.Node) -> Iterator[ir.ExternalTensor]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.TENSOR:
            tensors: Iterable[object] = (attribute.value,)
        elif attribute.type == ir.AttributeType.TENSORS:
            tensors = attribute.value
        else:
            continue
        yield from (t for t in tensors if isinstance(t, ir.ExternalTensor))


def checked_ranges(model: ir.Model, base_dir: Path | None) -> tuple[ExternalRange, ...]:
    """Where each external tensor lies, after making sure that it may be read.

    Raises:
        ModelError: A location is absolute, leaves the model's folder (by `..` or by a symbolic
            link), is missing, or is shorter than the tensor needs.
    """
    ranges = []
    sizes: dict[str, int] = {}  # many tensors share a file, and looking at it takes its time
    for tensor in external_tensors(model):
        if base_dir is None:
            raise ModelError(
                f"tensor '{tensor.name}' keeps its data in '{tensor.location}', and a model "
                "in memory has no folder to look in: pass the model's path instead"
            )
        location = os.fspath(tensor.location)
        subject = f"external data of tensor '{tensor.name}': '{location}'"
        if location not in sizes:
            sizes[location] = _checked_size(location, base_dir, subject)
        ranges.append(_checked_range(tensor, base_dir / location, sizes[location], subject))
    return tuple(ranges)


def _checked_size(location: str, base_dir: Path, subject: str) -> int:
    """The size in bytes of a file that may be read."""
    path = base_dir / location
    if os.path.isabs(location) or ".." in Path(location.replace("\\", "/")).parts:
        raise ModelError(
            f"{subject} points outside the model's folder, which is refused because a model "
            "could read any file that way: put the data beside the model and export again"
        )
    try:
        inside = path.resolve().is_relative_to(base_dir.resolve())
        exists = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, a loop of links
        raise ModelError(
            f"{subject} cannot be a file ({error}): the model is damaged, export it again"
        ) from error
    if not inside:
        raise ModelError(
            f"{subject} is a symbolic link that leaves the model's folder, which is refused "
            "because a model could read any file that way: copy the data beside the model "
            "(cp -L follows links)"
        )
    if not exists:
        raise ModelError(
            f"{subject} is missing from '{base_dir}': the model was copied without its data; "
            "put the file back"
        )
    return path.stat().st_size


def _checked_range(
    tensor: ir.ExternalTensor, path: Path, size: int, subject: str
) -> ExternalRange:
    offset = tensor.offset or 0
    length = (size - offset) if tensor.length is None else tensor.length
    if offset < 0 or length < tensor.nbytes or offset + length > size:
        raise ModelError(
            f"{subject} has {size} bytes, and the tensor needs {tensor.nbytes} from offset "
            f"{offset} on: the file is truncated or belongs to another model"
        )
    location = os.fspath(tensor.location)
    return ExternalRange(tensor.name or "", location, path, offset, length)


def sampled_digest(item: ExternalRange) -> bytes:
    """SHA-256 of the length and 16 evenly spaced 4 KiB blocks: cheap for any size."""
    digest = hashlib.sha256(str(item.length).encode())
    last = max(item.length - _SAMPLE_BYTES, 0)
    starts = sorted({last * i // (_SAMPLE_BLOCKS - 1) for i in range(_SAMPLE_BLOCKS)})
    with open(item.path, "rb") as stream:
        for start in starts:
            stream.seek(item.offset + start)
            digest.update(stream.read(min(_SAMPLE_BYTES, item.length - start)))
    return digest.digest()
