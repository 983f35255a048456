"""The model built once more from the original and the provenance: the same, byte for byte."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from lipcompile import model_io
from lipcompile.errors import InputError
from lipcompile.model_io import LoadedModel
from lipcompile.ops import MARK
from lipcompile.provenance import KEYS
from lipcompile.rebuild import rebuild
from lipcompile.records import COLUMNS, DROPPED, SITES, read_records
from lipcompile.text import count
from lipcompile.verifying.comparing import Comparison
from lipcompile.verifying.numbers import Side, frozen
from lipcompile.verifying.pair import Pair
from lipcompile.verifying.results import VerifyCheck, some
from lipcompile.verifying.signature import signature_changes

NAME = "rebuilt from provenance"
_SHOWN = 80  # characters of a value
_AS_FILES = ("path", "proto")  # other kinds are written to a proto in ways of their own


def check_rebuilt(pair: Pair) -> VerifyCheck:
    """Hardening the original as the provenance says gives this file."""
    try:
        expected = _rebuilt(pair)
    except InputError as error:
        reason = f"the original cannot be hardened as the provenance says: {error}"
        return VerifyCheck(NAME, False, reason)
    compared = Comparison(Side(expected), Side(pair.hardened)).run()
    found = [*compared.differences, *_other_metadata(pair, expected)]
    graph = pair.hardened.proto.graph
    if list(expected.proto.graph.value_info) != list(graph.value_info):
        found.append("changed value_info")
    if not found and not signature_changes(pair) and _rest_differs(pair, expected):
        found.append("something else in the file differs, such as fields that ONNX lacks")
    if found:
        return VerifyCheck(NAME, False, some(found))
    sizes = f"{count(graph.node, 'node')} and {count(graph.initializer, 'initializer')}"
    how = "number for number" if compared.otherwise else "byte for byte"
    return VerifyCheck(NAME, True, f"the same {sizes}, {how}{compared.note}")


def _rebuilt(pair: Pair) -> LoadedModel:
    fresh = model_io.load(pair.original.proto, pair.original.base_dir)
    fresh = replace(fresh, inlined=pair.original.inlined)
    return model_io.load(rebuild(fresh, pair.hardened.metadata), pair.original.base_dir)


def _other_metadata(pair: Pair, expected: LoadedModel) -> Iterator[str]:
    """What rebuilding says of the model, where it is not what stands there."""
    times = Counter(prop.key for prop in pair.hardened.proto.metadata_props)
    said, fresh = pair.hardened.metadata, expected.metadata
    for key in dict.fromkeys([*fresh, *said]):
        if not key.startswith(f"{MARK}."):
            continue
        if key not in KEYS:
            yield f"metadata '{key}' is none that LipCompile writes"
        elif times[key] > 1:
            yield f"metadata '{key}' stands there {times[key]} times"
        elif said.get(key) != fresh.get(key):
            yield from _other_value(key, said, fresh)


def _other_value(key: str, said: dict[str, str], fresh: dict[str, str]) -> Iterator[str]:
    if key not in said or key not in fresh or key not in (SITES, COLUMNS, DROPPED):
        one, other = _excerpts(repr(said.get(key)), repr(fresh.get(key)))
        yield f"metadata '{key}' is {one}, and rebuilding gives {other}"
        return
    stands, made = read_records(said, key), read_records(fresh, key)
    if len(stands) != len(made):
        yield f"metadata '{key}' has {len(stands)} records, and rebuilding gives {len(made)}"
        return
    faults = [f for a, b in zip(stands, made, strict=True) for f in _other_fields(a, b)]
    yield from faults or [f"metadata '{key}' says the same in another way"]


def _other_fields(said: dict[str, Any], fresh: dict[str, Any]) -> Iterator[str]:
    where = fresh.get("tensor", fresh.get("layer"))
    for key in dict.fromkeys([*fresh, *said]):
        stands, made = (json.dumps(one.get(key)) for one in (said, fresh))
        if stands != made:
            stands, made = _excerpts(stands, made)
            yield f"site '{where}' says {key} = {stands}, and it is {made}"


def _excerpts(one: str, other: str) -> tuple[str, str]:
    """Both, where they are long only around where they begin to differ."""
    if max(len(one), len(other)) <= _SHOWN:
        return one, other
    pairs = enumerate(zip(one, other, strict=False))
    start = max(0, next((i for i, (a, b) in pairs if a != b), 0) - _SHOWN // 2)
    cuts = (text[start : start + _SHOWN] for text in (one, other))
    first, second = (f"...{cut}..." for cut in cuts)
    return first, second


def _rest_differs(pair: Pair, expected: LoadedModel) -> bool:
    """Whether anything differs that has no name here: the files but for what was compared."""
    if not {pair.original.kind, pair.hardened.kind} <= set(_AS_FILES):
        return False
    return _rest(expected) != _rest(pair.hardened)


def _rest(model: LoadedModel) -> bytes:
    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    del proto.graph.node[:], proto.graph.initializer[:], proto.functions[:]
    return frozen(proto)
