"""Mutations that keep the structure of a file: most damaged bytes end in the parser otherwise.

Each takes bytes and a random generator and gives bytes; what it cannot parse, it damages as
bytes.
"""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Mutator = Callable[[bytes, random.Random], bytes]

_NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    127,
    255,
    60_000,
    2**31 - 1,
    2**31,
    2**32,
    2**60,
    2**63 - 1,
    -(2**63),
)
_FLOATS = (0.0, -0.0, 1e-45, 1.0, -1.0, 3.4e38, 1e308, float("inf"), float("nan"))
_WORDS = ("", ".", "..", "/dev/zero", "a/../../x", "x" * 300, "\x1b[2J", "a\nb", "\u202e", "é")


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Changes, removes, inserts or copies a few bytes."""
    raw = bytearray(data or b"\0")
    for _ in range(rng.choice([1, 1, 2, 4])):
        place = rng.randrange(len(raw))
        match rng.randrange(4):
            case 0:
                raw[place] = rng.randrange(256)
            case 1 if len(raw) > 1:
                del raw[place : min(place + rng.randrange(1, 40), len(raw) - 1)]
            case 2:
                raw[place:place] = rng.randbytes(rng.randrange(1, 10))
            case _:
                other = rng.randrange(len(raw))
                raw[place : place + 20] = raw[other : other + 20]
    return bytes(raw)


# Protobuf


def model(data: bytes, rng: random.Random) -> bytes:
    """Edits fields of a `ModelProto`."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception:
        return damaged(data, rng)
    for _ in range(rng.choice([1, 1, 2, 3])):
        _edit(proto, rng)
    raw = bytearray(proto.SerializeToString())
    if raw and rng.random() < 0.1:  # keeps every length, and makes text that is not UTF-8
        raw[rng.randrange(len(raw))] |= 0x80
    return bytes(raw)


def _edit(proto: onnx.ModelProto, rng: random.Random) -> None:
    messages = list(_messages(proto))
    target = rng.choice(messages)
    if rng.random() < 0.25:
        _graft(target, messages, rng)
        return
    fields = [f for f, _ in target.ListFields()] or list(target.DESCRIPTOR.fields)
    field = rng.choice(fields if rng.random() < 0.7 else list(target.DESCRIPTOR.fields))
    if field.is_repeated:
        _edit_list(target, field, rng, _names(proto))
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        if rng.random() < 0.5:
            target.ClearField(field.name)
        else:
            getattr(target, field.name).SetInParent()
    elif rng.random() < 0.2:
        target.ClearField(field.name)
    else:
        setattr(target, field.name, _value(field, rng, _names(proto)))


def _messages(message: Message) -> list[Message]:
    found = [message]
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            inner = list(value) if field.is_repeated else [value]
            found += [one for item in inner[:200] for one in _messages(item)]
    return found


def _graft(target: Message, messages: list[Message], rng: random.Random) -> None:
    """Replaces a message by another one of its type."""
    same = [m for m in messages if m.DESCRIPTOR is target.DESCRIPTOR and m is not target]
    if same:
        other = type(target)()
        other.CopyFrom(rng.choice(same))
        target.CopyFrom(other)


def _edit_list(
    target: Message, field: FieldDescriptor, rng: random.Random, names: list[str]
) -> None:
    items = getattr(target, field.name)
    is_message = field.type == FieldDescriptor.TYPE_MESSAGE
    kind = rng.randrange(4)
    if kind == 0 and len(items):
        del items[rng.randrange(len(items))]
    elif kind == 1 and len(items):
        if is_message:
            items.add().CopyFrom(items[rng.randrange(len(items) - 1)])
        else:
            items.append(items[rng.randrange(len(items))])
    elif kind == 2 and len(items) and not is_message:
        items[rng.randrange(len(items))] = _value(field, rng, names)
    elif is_message:
        items.add()
    else:
        items.append(_value(field, rng, names))


def _names(proto: onnx.ModelProto) -> list[str]:
    named = [name for node in proto.graph.node for name in (*node.input, *node.output)]
    named += [t.name for t in proto.graph.initializer]
    named += [node.op_type for node in proto.graph.node]
    # Protobuf gives bytes for what is not UTF-8, and takes none.
    return [*(name for name in named if isinstance(name, str)), *_WORDS]


def _value(field: FieldDescriptor, rng: random.Random, names: list[str]) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            text = rng.choice(names)
            return text if field.type == FieldDescriptor.TYPE_STRING else text.encode()
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return rng.choice(_FLOATS)
        case FieldDescriptor.CPPTYPE_ENUM:
            return rng.choice(list(field.enum_type.values_by_number))
        case FieldDescriptor.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case kind:
            bits = 32 if kind in (1, 3) else 64
            low, high = (
                (-(1 << bits - 1), (1 << bits - 1) - 1) if kind < 3 else (0, 2**bits - 1)
            )
            number = rng.choice([*_NUMBERS, rng.randrange(24)])
            return min(max(number, low), high)


# JSON


def document(data: bytes, rng: random.Random) -> bytes:
    """Edits values of a JSON document."""
    try:
        root = [json.loads(data)]
    except (ValueError, RecursionError):
        return damaged(data, rng)
    for _ in range(rng.choice([1, 1, 2, 3])):
        places = list(_places(root))
        holder, key = rng.choice(places)
        _edit_json(holder, key, places, rng)
    text = json.dumps(root[0], default=str) if root else ""
    return text.encode() if rng.random() < 0.95 else damaged(text.encode(), rng)


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    stack = [value]
    while stack and len(found) < 5000:
        one = stack.pop()
        keys = list(one) if isinstance(one, dict) else list(range(len(one)))
        found += [(one, key) for key in keys]
        stack += [one[key] for key in keys if isinstance(one[key], (dict, list))]
    return found or [([0], 0)]


def _edit_json(
    holder: Any, key: Any, places: list[tuple[Any, Any]], rng: random.Random
) -> None:
    values = (
        *(
            None,
            True,
            False,
            [],
            {},
            [[]],
            {"": 0},
            10**400,
            2**64,
            *_NUMBERS,
            *_FLOATS,
            *_WORDS,
        ),
    )
    match rng.randrange(5):
        case 0:
            other, place = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[place]))
        case 1 if isinstance(holder, dict):
            del holder[key]
        case 1 if len(holder) > 1:
            del holder[key]
        case 2 if isinstance(holder, dict):
            holder[rng.choice(_WORDS)] = rng.choice(values)
        case 2:
            holder.append(rng.choice(values))
        case _:
            holder[key] = rng.choice(values)


def text_or_document(data: bytes, rng: random.Random) -> bytes:
    """As text, or as JSON where it is that."""
    return document(data, rng) if data[:1] == b"{" and rng.random() < 0.7 else text(data, rng)


def provenance(data: bytes, rng: random.Random) -> bytes:
    """Edits what a hardened model says of itself; now and then the graph as well."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception:
        return damaged(data, rng)
    if not proto.metadata_props or rng.random() < 0.15:
        return model(data, rng)
    prop = rng.choice(list(proto.metadata_props))
    if rng.random() < 0.1:
        proto.metadata_props.remove(prop)
    else:
        # Protobuf gives bytes for what is not UTF-8.
        value = prop.value if isinstance(prop.value, bytes) else prop.value.encode()
        prop.value = document(value, rng).decode(errors="replace")
    return proto.SerializeToString()


# .npy and .npz


_DTYPES = (
    *(
        "<f4",
        ">f4",
        "<f2",
        "<f8",
        "|u1",
        "<i8",
        "|b1",
        "|O",
        "<U5",
        "|S3",
        "|V4",
        "<c8",
        "<M8[s]",
    ),
    *("|O8", "<f16", "[('a', '<f4')]", "[('a', '|O')]", "<U0", "|V0"),
)
_SHAPES = (
    "()",
    "(0,)",
    "(1,)",
    "(2, 3, 8, 8)",
    "(-1,)",
    "(2, -3)",
    "(2**40,)",
    "(4294967296, 4)",
)
_SHAPES += (
    "(9" + "9" * 20 + ",)",
    "(1.5,)",
    "(True,)",
    "(2, 1152921504606846976)",
    "[]",
    "{}",
)


def array(data: bytes, rng: random.Random) -> bytes:
    """Edits the header of a .npy file or of a member of a .npz, or the archive itself."""
    if data[:2] != b"PK":
        return _npy(data, rng)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()[:8]}
    except Exception:
        return damaged(data, rng)
    if not members or rng.random() < 0.2:
        return damaged(data, rng)
    chosen = rng.choice(list(members))
    match rng.randrange(4):
        case 0:
            members[rng.choice(["/", "x", "../x.npy", "a" * 300, "\x1b[2J.npy"])] = members[
                chosen
            ]
        case 1:
            del members[chosen]
        case _:
            members[chosen] = _npy(members[chosen], rng)
    target = io.BytesIO()
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


def _npy(data: bytes, rng: random.Random) -> bytes:
    if data[:6] != b"\x93NUMPY" or rng.random() < 0.3:
        return damaged(data, rng)
    start = 10 if data[6] == 1 else 12
    length = int.from_bytes(data[8:start], "little")
    payload = data[start + length :]
    dtype = rng.choice(_DTYPES)
    described = dtype if dtype.startswith("[") else repr(dtype)
    order, shape = rng.choice(["True", "False"]), rng.choice(_SHAPES)
    header = f"{{'descr': {described}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    header += b" " * (-(start + len(header) + 1) % 64) + b"\n"
    return data[:8] + len(header).to_bytes(start - 8, "little") + header + payload


# Text


def text(data: bytes, rng: random.Random) -> bytes:
    """Repeats, removes or swaps lines, or damages bytes."""
    lines = data.split(b"\n")
    place, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            lines.insert(place, lines[other])
        case 1 if len(lines) > 1:
            del lines[place]
        case 2:
            lines[place] = rng.choice(_WORDS).encode()
        case _:
            return damaged(data, rng)
    return b"\n".join(lines)
