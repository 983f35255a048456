"""config.pbtxt: how Triton is told of a model, as text of its ModelConfig message.

Written without protobuf classes, since Triton's schema comes in no package of ours.
https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from lipcompile.serving.signature import ServedSignature, ServedTensor

Platform = Literal["any", "cpu", "gpu", "tensorrt"]
LABELS_FILE = "labels.txt"
_PLACES: Mapping[str, tuple[str, ...]] = {
    "any": (),
    "cpu": ("instance_group [ { kind: KIND_CPU } ]",),
    "gpu": ("instance_group [ { kind: KIND_GPU } ]",),
    "tensorrt": (
        "instance_group [ { kind: KIND_GPU } ]",
        "optimization {",
        '  execution_accelerators { gpu_execution_accelerator [ { name: "tensorrt" } ] }',
        "}",
    ),
}
_CLAIM = re.compile(r'parameters \{ key: "lipcompile\.(\d+)\.')


@dataclass(frozen=True, slots=True)
class TritonConfig:
    """A model's configuration, for all versions of it.

    Attributes:
        structure: What has to be the same for every version.
        claims: Per version, lines that repeat what its file says of itself. Triton hands them
            out with the configuration, and takes no notice of them.
    """

    structure: str
    claims: Mapping[int, tuple[str, ...]]

    def __str__(self) -> str:
        lines = [line for version in sorted(self.claims) for line in self.claims[version]]
        return "\n".join([self.structure, *lines, ""])


def make_config(
    name: str,
    signature: ServedSignature,
    max_batch_size: int,
    platform: Platform,
    labelled: str | None,
    claims: Mapping[int, Mapping[str, str]],
) -> TritonConfig:
    """The configuration of a model.

    Args:
        name: Of the model, which is that of its folder.
        signature: Its inputs and outputs.
        max_batch_size: 0, or how many rows Triton may put in one batch.
        platform: Where Triton is to run it; "any" leaves that to Triton.
        labelled: The output that LABELS_FILE names the classes of.
        claims: Per version, keys and values to repeat.
    """
    batched = max_batch_size > 0
    lines = [
        "# Written by lipcompile export-triton.",
        f"name: {quoted(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {max_batch_size}",
        *_tensors("input", signature.inputs, batched, None),
        *_tensors("output", signature.outputs, batched, labelled),
        *_PLACES[platform],
    ]
    told = {version: tuple(_claims(version, keys)) for version, keys in claims.items()}
    return TritonConfig("\n".join(lines), told)


def parse_config(text: str) -> TritonConfig:
    """Splits a configuration again; what is not a claim of ours belongs to the structure."""
    structure: list[str] = []
    claims: dict[int, tuple[str, ...]] = {}
    for line in text.splitlines():
        match = _CLAIM.match(line)
        if match is None:
            structure.append(line)
        else:
            version = int(match.group(1))
            claims[version] = (*claims.get(version, ()), line)
    return TritonConfig("\n".join(structure), claims)


def _claims(version: int, keys: Mapping[str, str]) -> Iterator[str]:
    for key, value in sorted(keys.items()):
        name = quoted(f"lipcompile.{version}.{key}")
        yield f"parameters {{ key: {name} value: {{ string_value: {quoted(value)} }} }}"


def _tensors(
    kind: str, tensors: Iterable[ServedTensor], batched: bool, labelled: str | None
) -> Iterator[str]:
    for tensor in tensors:
        yield f"{kind} {{"
        yield f"  name: {quoted(tensor.name)}"
        yield f"  data_type: {tensor.data_type}"
        dims = tensor.dims(batched)
        yield f"  dims: [ {', '.join(map(str, dims or (1,)))} ]"
        if batched and not dims:
            # dims may not be empty. Without a batch the server refuses an empty reshape, and
            # the backend takes a scalar as dims [ 1 ].
            yield "  reshape { shape: [ ] }"
        if tensor.name == labelled:
            yield f"  label_filename: {quoted(LABELS_FILE)}"
        yield "}"


def quoted(text: str) -> str:
    """A string literal of protobuf's text format; other bytes than plain ASCII in octal."""
    escaped = (
        f"\\{byte:03o}" if byte < 0x20 or byte > 0x7E or byte in b'"\\' else chr(byte)
        for byte in text.encode()
    )
    return f'"{"".join(escaped)}"'
