"""The model built once more from the original and the provenance: the same, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lipcompile import model_io
from lipcompile.errors import InputError
from lipcompile.external_data import ExternalRange
from lipcompile.rebuild import rebuild
from lipcompile.records import read_sites
from lipcompile.text import count
from lipcompile.verifying.pair import Pair
from lipcompile.verifying.results import VerifyCheck, some

NAME = "rebuilt from provenance"
_BLOCK = 1 << 20


def check_rebuilt(pair: Pair) -> VerifyCheck:
    """Hardening the original as the provenance says gives this file."""
    try:
        expected = _rebuilt(pair)
    except InputError as error:
        return VerifyCheck(NAME, False, str(error))
    real = model_io.with_plain_locations(pair.hardened, pair.hardened.proto)
    found = [*differences(expected, real)]
    found += [*_other_records(pair, expected), *_other_data(pair)]
    if found:
        return VerifyCheck(NAME, False, some(found))
    graph = pair.hardened.proto.graph
    sizes = f"{count(graph.node, 'node')} and {count(graph.initializer, 'initializer')}"
    return VerifyCheck(NAME, True, f"the same {sizes}, byte for byte")


def _rebuilt(pair: Pair) -> Any:
    fresh = model_io.load(pair.original.proto, pair.original.base_dir)
    return model_io.with_plain_locations(fresh, rebuild(fresh, pair.hardened.metadata))


def differences(expected: Any, real: Any) -> Iterator[str]:
    """How the nodes and initializers of a graph differ from what was expected, in words."""
    old, new = _by_outputs(expected), _by_outputs(real)
    yield from (f"missing {_name(old[key])}" for key in old if key not in new)
    yield from (f"extra {_name(new[key])}" for key in new if key not in old)
    for key in old:
        if key in new and frozen(old[key]) != frozen(new[key]):
            yield f"changed {_name(new[key])}"
    if set(old) == set(new) and list(old) != list(new):
        yield "the nodes stand in another order"
    weights = {tensor.name: tensor for tensor in expected.graph.initializer}
    held = {tensor.name: tensor for tensor in real.graph.initializer}
    yield from (f"missing weight '{name}'" for name in weights if name not in held)
    yield from (f"extra weight '{name}'" for name in held if name not in weights)
    for name in weights:
        if name in held and frozen(weights[name]) != frozen(held[name]):
            yield f"changed weight '{name}'"


def frozen(message: Any) -> bytes:
    """The message's bytes."""
    content: bytes = message.SerializeToString(deterministic=True)
    return content


def _by_outputs(model: Any) -> dict[tuple[str, ...], Any]:
    return {tuple(node.output): node for node in model.graph.node}


def _name(node: Any) -> str:
    kind = "constant" if node.op_type == "Constant" else f"{node.op_type} node"
    output = next(iter(node.output), "")
    return f"{kind} '{node.name or output}'"


def _other_records(pair: Pair, expected: Any) -> Iterator[str]:
    """What rebuilding would have written of a site, where it is not what stands there."""
    fresh = {prop.key: prop.value for prop in expected.metadata_props}
    for said, record in zip(pair.sites, read_sites(fresh), strict=True):
        for key in record:
            if said.get(key) != record[key]:
                yield (
                    f"site '{said['tensor']}' says {key} = {said.get(key)!r}, and it is "
                    f"{record[key]!r}"
                )


def _other_data(pair: Pair) -> Iterator[str]:
    """External tensors whose bytes differ; they are read in blocks."""
    originals = {item.tensor: item for item in pair.original.external}
    for item in pair.hardened.external:
        before = originals.get(item.tensor)
        if before is None:
            yield f"extra external data of '{item.tensor}'"
        elif any(a != b for a, b in zip(_blocks(before), _blocks(item), strict=False)):
            yield f"changed weight '{item.tensor}' (external data)"


def _blocks(item: ExternalRange) -> Iterator[bytes]:
    with open(item.path, "rb") as stream:
        stream.seek(item.offset)
        left = item.length
        while left > 0 and (block := stream.read(min(_BLOCK, left))):
            left -= len(block)
            yield block
        yield b""
