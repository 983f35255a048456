"""Every record of the provenance: its threshold follows from its numbers, and its layers read
what was forged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

import onnx_ir as ir

from lipcompile.errors import InputError
from lipcompile.forged import Hard
from lipcompile.layer_cr import LayerCr
from lipcompile.ops import MARK, commutes
from lipcompile.passes.remove_forged import is_inserted
from lipcompile.rebuild import form_of
from lipcompile.text import count
from lipcompile.thresholds import parse_cr
from lipcompile.verifying.pair import Pair, Record
from lipcompile.verifying.results import VerifyCheck, some

NAME = "thresholds and readers"
_C_R = f"{MARK}.c_r"


def check_thresholds(pair: Pair) -> VerifyCheck:
    """c = c_r * absmax in the form's own type, and no layer reads past its form."""
    found = [fault for record in pair.sites for fault in _site_faults(pair, record)]
    found += [*_header_faults(pair), *_ratio_faults(pair)]
    found += [fault for record in pair.columns for fault in _column_faults(pair, record)]
    if found:
        return VerifyCheck(NAME, False, some(found))
    layers = [name for record in pair.sites for name in record["layers"]]
    if pair.columns:
        text = f"c = c_r * absmax for {count(pair.columns, 'layer')}"
        return VerifyCheck(NAME, True, text)
    text = f"c = c_r * absmax at {count(pair.sites, 'site')}, which {count(layers, 'layer')}"
    return VerifyCheck(NAME, True, f"{text} read forged")


def _header_faults(pair: Pair) -> Iterator[str]:
    """What the metadata says of the form, which is that of the last run."""
    if not pair.sites:
        return
    last = pair.sites[-1]
    for key in ("form", "a", "b"):
        said = pair.hardened.metadata.get(f"{MARK}.{key}")
        value = last.get(key)
        if said != (value if key == "form" or value is None else repr(value)):
            yield f"metadata '{MARK}.{key}' is {said!r}, and the last site has {value!r}"


def _ratio_faults(pair: Pair) -> Iterator[str]:
    """c_r of the layers of the last run, and what the metadata gives them."""
    metadata = pair.hardened.metadata
    ratios = LayerCr(parse_cr(metadata[_C_R]), _patterns(metadata))
    last = pair.sites[-1].get("run") if pair.sites else None
    given = [
        (name, record["c_r"])
        for record in pair.sites
        if record.get("run") == last
        for name in record["layers"]
    ]
    given += [(record["layer"], record["c_r"]) for record in pair.columns]
    for name, c_r in given:
        found = [p for p in ratios.patterns if re.search(p, name)]
        expected = ratios.patterns[found[0]] if found else ratios.default
        if parse_cr(c_r) != expected:
            yield f"layer '{name}' has c_r = {c_r!r}, and the metadata gives it {expected!r}"


def _patterns(metadata: Mapping[str, str]) -> dict[str, float]:
    try:
        patterns = json.loads(metadata.get(f"{_C_R}_by_layer", "{}"))
    except RecursionError as error:
        raise ValueError("the patterns are nested") from error
    return {pattern: parse_cr(c_r) for pattern, c_r in patterns.items()}


def _site_faults(pair: Pair, record: Record) -> Iterator[str]:
    tensor = record["tensor"]
    dtype = pair.dtypes.get(tensor)
    if dtype is None:
        yield f"the original has no site '{tensor}'"
        return
    form = form_of(record)
    try:
        c = form.threshold(float(record["c_r"]) * float(record["absmax"]), dtype)
    except InputError as error:
        yield f"site '{tensor}': {error}"
        return
    if c != record["c"]:
        yield f"site '{tensor}' has c = {record['c']!r}, and c_r * absmax is {c!r}"
    for name in record["layers"]:
        yield from _reader_faults(pair, record, name)


def _reader_faults(pair: Pair, record: Record, name: str) -> Iterator[str]:
    layer = pair.layers.get(name)
    if layer is None:
        yield f"the original has no layer '{name}'"
        return
    node = pair.hardened_nodes.get(layer.node.outputs[0].name or "")
    if node is None or len(node.inputs) <= layer.data_index:
        yield f"the hardened model has no layer '{name}'"
        return
    data = node.inputs[layer.data_index]
    if not _reads(data, record["forged"]):
        read = data.name if data is not None else "nothing"
        yield f"layer '{name}' reads '{read}', and not the forged '{record['forged']}'"
    elif record["way"] != "insert" and not _is_marked(pair, record["at"]):
        yield f"layer '{name}' reads '{record['at']}', whose activation took no form in"


def _reads(value: ir.Value | None, forged: str) -> bool:
    """Whether `value` is the forged tensor, rearranged, pooled, or quantised again."""
    while value is not None and value.name != forged:
        node = value.producer()
        if node is None or not (is_inserted(node) or commutes(node)):
            return False
        value = node.inputs[0] if node.inputs else None
    return value is not None


def _is_marked(pair: Pair, anchor: str) -> bool:
    node = pair.hardened_nodes.get(anchor)
    return node is not None and f"{MARK}.form" in node.metadata_props


def _column_faults(pair: Pair, record: Record) -> Iterator[str]:
    name = record["layer"]
    layer = pair.layers.get(name)
    if layer is None:
        yield f"the original has no layer '{name}'"
        return
    try:
        c = Hard().threshold(float(record["c_r"]) * float(record["absmax"]), layer.dtype)
    except InputError as error:
        yield f"layer '{name}': {error}"
        return
    if c != record["c"]:
        yield f"layer '{name}' has c = {record['c']!r}, and c_r * absmax is {c!r}"
