"""Load a model from a path, a `ModelProto`, an `onnx_ir.Model` or a graphsurgeon `Graph`."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from lipcompile.digest import model_digest
from lipcompile.errors import MissingExtraError, ModelError
from lipcompile.external_data import ExternalRange, checked_ranges, external_tensors
from lipcompile.model_io.checking import check_file, check_graphs, check_is_model
from lipcompile.model_io.inlining import inline
from lipcompile.model_io.rendering import remember, render
from lipcompile.ops import LINEAR_OPS, default_opset
from lipcompile.signature import TensorSpec

Kind = Literal["path", "proto", "ir", "graphsurgeon"]


@dataclass(slots=True)
class LoadedModel:
    """A model as the compiler works on it.

    Attributes:
        kind: What the caller handed in, and gets back.
        name: File name, or graph name: for messages.
        path: The file, for kind "path".
        base_dir: The folder that external data is relative to, if the model has one.
        proto: The model as it came (with local functions that hold linear layers inlined).
            Never modified.
        graph_ir: The same model as an onnx-ir model, which passes edit in place.
        external: Where its external weights lie.
        digest: "sha256:..." of what it computes (`lipcompile.digest`).
        inlined: Names of the local functions that were inlined.
        file_digest: SHA-256 of the file's bytes, in hexadecimal, for kind "path".
    """

    kind: Kind
    name: str
    path: Path | None
    base_dir: Path | None
    proto: onnx.ModelProto
    graph_ir: ir.Model
    external: tuple[ExternalRange, ...]
    digest: str
    inlined: tuple[str, ...]
    file_digest: str | None = None

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return default_opset(self.graph_ir)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs that a caller must feed (initializers are not counted)."""
        initializers = {t.name for t in self.proto.graph.initializer}
        return tuple(
            _spec(info) for info in self.proto.graph.input if info.name not in initializers
        )

    @property
    def has_fixed_batch(self) -> bool:
        """Whether an input has a fixed number of rows."""
        return any(spec.fixed_batch is not None for spec in self.inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(_spec(info) for info in self.proto.graph.output)

    @property
    def metadata(self) -> dict[str, str]:
        """The model's `metadata_props`, with U+FFFD for what is not UTF-8."""
        return {_text(prop.key): _text(prop.value) for prop in self.proto.metadata_props}


def load(model: object, base_dir: Path | None = None) -> LoadedModel:
    """Loads a path, `onnx.ModelProto`, `onnx_ir.Model` or graphsurgeon `Graph`.

    External weights stay on disk. Local functions that contain linear layers are inlined,
    since each call needs thresholds of its own; other functions stay as they are.

    Args:
        model: What to load.
        base_dir: The folder of external weights, for a model that is not a path.

    Raises:
        ModelError: Missing, empty, truncated or not ONNX; an opset below 7; external data that
            is missing or leaves the model's folder.
    """
    kind, name, path, proto, file_digest = _read(model)
    check_is_model(proto, name)
    check_graphs(proto, name)
    graph_ir = to_ir(proto, name)
    inlined = _inline_linear_functions(graph_ir, name)
    if inlined:
        proto = render(proto, graph_ir)
        graph_ir = to_ir(proto, name)
    remember(graph_ir)
    base_dir = path.parent if path else base_dir or _folder_of_weights(model)
    external = checked_ranges(graph_ir, base_dir)
    if base_dir is not None:  # for passes that edit weights; no other reads them
        ir.external_data.set_base_dir(graph_ir.graph, base_dir)
    digest = _digest(graph_ir, external, name)
    return LoadedModel(
        kind, name, path, base_dir, proto, graph_ir, external, digest, inlined, file_digest
    )


def reload(source: LoadedModel, proto: onnx.ModelProto) -> LoadedModel:
    """`proto`, a rewrite of `source`, loaded under its name."""
    return replace(load(proto, source.base_dir), name=source.name)


def _read(model: object) -> tuple[Kind, str, Path | None, onnx.ModelProto, str | None]:
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        return "path", path.name, path, *_read_file(path)
    if isinstance(model, onnx.ModelProto):
        return "proto", model.graph.name or "model", None, model, None
    if isinstance(model, ir.Model):
        return "ir", model.graph.name or "model", None, _from_ir(model), None
    if type(model).__module__.partition(".")[0] == "onnx_graphsurgeon":
        name = getattr(model, "name", "model")
        return "graphsurgeon", name, None, _from_graphsurgeon(model), None
    raise ModelError(
        f"a model of type '{type(model).__name__}' is not supported: pass a path, an "
        "onnx.ModelProto, an onnx_ir.Model or an onnx_graphsurgeon.Graph"
    )


def _from_ir(model: ir.Model) -> onnx.ModelProto:
    try:
        proto: onnx.ModelProto = ir.to_proto(model)
    except Exception as error:  # whatever it raises, the graph is what is wrong
        raise ModelError(
            f"the onnx_ir.Model cannot be serialised ({_reason(error)}): check it"
        ) from error
    return proto


def _folder_of_weights(model: object) -> Path | None:
    if isinstance(model, ir.Model):
        for tensor in external_tensors(model):
            return Path(tensor.base_dir)
    return None


def _from_graphsurgeon(graph: object) -> onnx.ModelProto:
    try:
        import onnx_graphsurgeon
    except ImportError as error:
        raise MissingExtraError(
            "a graphsurgeon Graph needs the package onnx-graphsurgeon: "
            'pip install "lipcompile[graphsurgeon]"'
        ) from error
    proto: onnx.ModelProto = onnx_graphsurgeon.export_onnx(graph)
    return proto


def _read_file(path: Path) -> tuple[onnx.ModelProto, str]:
    """The model, and the SHA-256 of its bytes."""
    proto = onnx.ModelProto()
    try:
        check_file(path)
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        proto.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(
            f"'{path}' is not an ONNX model, or was cut short ({path.stat().st_size} bytes "
            "that do not parse as a ModelProto): export or download it again"
        ) from error
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read ({error.strerror}): check it") from error
    return proto, digest


def parse(content: bytes) -> onnx.ModelProto:
    """The model in bytes that `serialize` gave."""
    return onnx.ModelProto.FromString(content)


def to_ir(proto: onnx.ModelProto, name: str) -> ir.Model:
    """The onnx-ir model of a proto; inputs and outputs that are no tensors lose their type."""
    try:
        return ir.from_proto(proto)
    except Exception:  # onnx-ir does not read map types (ZipMap outputs of sklearn models)
        untyped = copy.deepcopy(proto)
    for info in (*untyped.graph.input, *untyped.graph.output, *untyped.graph.value_info):
        if info.type.WhichOneof("value") != "tensor_type":
            info.ClearField("type")
    try:
        return ir.from_proto(untyped)
    except Exception as error:  # whatever it raises, the file is what is wrong
        raise ModelError(
            f"'{name}' is not a valid ONNX graph ({_reason(error)}): check it with "
            "onnx.checker"
        ) from error


def edit(
    proto: onnx.ModelProto,
    name: str,
    rewrite: Callable[[ir.Model], None],
    metadata: Mapping[str, str | None],
) -> onnx.ModelProto:
    """`proto` as `rewrite` edits it; it is not modified itself.

    Args:
        proto: The model.
        name: For messages.
        rewrite: Edits the graph in place.
        metadata: As in `render`.
    """
    graph_ir = to_ir(proto, name)
    remember(graph_ir)
    rewrite(graph_ir)
    return render(proto, graph_ir, metadata)


def _digest(model: ir.Model, external: tuple[ExternalRange, ...], name: str) -> str:
    try:
        return model_digest(model, external)
    except (AssertionError, OSError, TypeError, ValueError) as error:
        reason = str(error) or "its numbers are not of its type"  # onnx-ir's own assertions
        raise ModelError(
            f"'{name}' has a weight that cannot be read ({reason}): export or copy it again"
        ) from error


def _reason(error: BaseException) -> str:
    """First line of the error that started the chain; onnx-ir wraps one per nested object."""
    while following := error.__cause__ or error.__context__:
        error = following
    return (str(error).splitlines() or [type(error).__name__])[0][:400]


def _text(found: str | bytes) -> str:
    """Protobuf gives bytes for what is not UTF-8."""
    return found if isinstance(found, str) else found.decode(errors="replace")


def _spec(info: onnx.ValueInfoProto) -> TensorSpec:
    if info.type.WhichOneof("value") != "tensor_type":
        return TensorSpec(info.name, None, None)
    tensor = info.type.tensor_type
    try:
        dtype = None if tensor.elem_type == 8 else ir.DataType(tensor.elem_type).numpy().name
    except (TypeError, ValueError):
        dtype = None
    if not tensor.HasField("shape"):
        return TensorSpec(info.name, dtype, None)
    # Some exporters write -1 or 0 for a dynamic dimension.
    dims = tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param
        for d in tensor.shape.dim
    )
    return TensorSpec(info.name, dtype, dims)


def _inline_linear_functions(model: ir.Model, name: str) -> tuple[str, ...]:
    """Inlines the local functions that hold a linear layer, directly or through a call."""
    callers: dict[ir.OperatorIdentifier, list[ir.OperatorIdentifier]] = {}
    holders: set[ir.OperatorIdentifier] = set()
    for key, function in model.functions.items():
        for node in function.all_nodes():
            callers.setdefault(node.op_identifier(), []).append(key)
            if node.op_type in LINEAR_OPS:
                holders.add(key)
    queue = list(holders)
    while queue:
        fresh = [key for key in callers.get(queue.pop(), ()) if key not in holders]
        holders.update(fresh)
        queue += fresh
    try:
        if holders:
            inline(model, lambda function: function.identifier() in holders)
    except Exception as error:  # functions that call each other, or use another opset
        raise ModelError(
            f"the local functions of '{name}' cannot be inlined ({_reason(error)}): export "
            "the model without functions, or inline them with onnx.inliner"
        ) from error
    return tuple(sorted(function for _, function, _ in holders))
