"""The numbers of a model's tensors, wherever and however they are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import onnx_ir as ir

from lipcompile.external_data import ExternalRange
from lipcompile.model_io import LoadedModel

_BLOCK = 1 << 20
EXTERNAL = 1  # of TensorProto.DataLocation


@dataclass(frozen=True)
class Side:
    """One of two models, whose tensors can be read wherever they lie."""

    model: LoadedModel

    @property
    def graph(self) -> Any:
        return self.model.proto.graph

    @cached_property
    def _ranges(self) -> dict[tuple[str, str, int], ExternalRange]:
        return {
            (item.tensor, item.location, item.offset): item for item in self.model.external
        }

    def numbers(self, tensor: Any) -> bytes:
        """SHA-256 of the numbers as ONNX's raw_data holds them; files are read in blocks."""
        if tensor.data_location != EXTERNAL and tensor.string_data:
            return hashlib.sha256(repr(list(tensor.string_data)).encode()).digest()
        read = ir.serde.deserialize_tensor(tensor)
        if not isinstance(read, ir.ExternalTensor):
            return hashlib.sha256(read.tobytes()).digest()
        item = self._ranges[read.name or "", str(read.location), read.offset or 0]
        digest = hashlib.sha256()
        with open(item.path, "rb") as stream:
            stream.seek(item.offset)
            left = read.nbytes
            while left > 0 and (block := stream.read(min(_BLOCK, left))):
                digest.update(block)
                left -= len(block)
        return digest.digest()


def frozen(message: Any) -> bytes:
    """The message's bytes."""
    content: bytes = message.SerializeToString(deterministic=True)
    return content


def tensors_in(message: Any) -> Iterator[Any]:
    """The tensors of a tensor, node, function or attribute, in its subgraphs as well."""
    kind = message.DESCRIPTOR.name
    if kind == "TensorProto":
        yield message
        return
    held: list[Any] = []
    if kind == "AttributeProto":
        held = [getattr(message, name) for name in ("t", "g") if message.HasField(name)]
        held += [*message.tensors, *message.graphs]
    elif kind == "NodeProto":
        held = [*message.attribute]
    elif kind == "FunctionProto":
        held = [*message.node, *message.attribute_proto]
    elif kind == "GraphProto":
        held = [*message.initializer, *message.node]
    for one in held:
        yield from tensors_in(one)


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def without_places(message: Any) -> Any:
    """A copy that does not say in which files its external tensors lie."""
    copied = _copy(message)
    for tensor in tensors_in(copied):
        del tensor.external_data[:]
    return copied


def hashed(side: Side, message: Any) -> Any:
    """A copy with the hash of its numbers in each tensor, however these are stored."""
    copied = _copy(message)
    for tensor in tensors_in(copied):
        plain = type(tensor)(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
        plain.raw_data = side.numbers(tensor)
        plain.doc_string = tensor.doc_string
        tensor.CopyFrom(plain)
    return copied
