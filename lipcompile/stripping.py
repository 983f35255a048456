"""strip(): the model as it was before hardening."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipcompile import model_io
from lipcompile.abstaining.wrapping import take_off
from lipcompile.ensembles.wrapping import unwrap
from lipcompile.errors import CheckFailed, ModelError
from lipcompile.model_io import LoadedModel
from lipcompile.ops import MARK
from lipcompile.passes.remove_forged import RemoveForged
from lipcompile.records import (
    COLUMNS,
    INLINED,
    LIPSCHITZ,
    SITES,
    SOURCE,
    SOURCE_FILE,
    is_ours,
    read_record,
    read_records,
    read_sites,
)
from lipcompile.text import count


def strip(
    model: object, output: str | os.PathLike[str] | None = None, force: bool = False
) -> StripResult:
    """Takes the forged functions out of a hardened model, of every run, and its ensemble or
    abstain head off.

    The result computes what the model computed before it was hardened (its digest is compared
    with the one in the provenance; it covers large external tensors by samples), and is the
    very bytes of that file where the file can be known: no local function was inlined, no
    external data got another name, and the file was serialised in protobuf's usual way.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model` or graphsurgeon `Graph`.
        output: The file to write; for a path the default is `<stem>.stripped.onnx` beside it,
            for other kinds nothing is written by default.
        force: Replace an existing file.

    Returns:
        The result; `result.model` is the original in the kind that was handed in.

    Raises:
        ModelError: The model is not hardened, its weights were edited (variant "weight", or
            rescaled), or another tool changed it.
        OutputError: The output cannot be written.
        CheckFailed: The result is not what was hardened; nothing was written.
    """
    target = _target(model, output)
    if target is not None:
        model_io.check_output(target, force, model_io.paths_among(model))
    whole = model_io.load(model)
    headless, head = take_off(whole)
    loaded, around = unwrap(headless)
    _check_ours(whole)
    records = read_sites(loaded.metadata)
    layers = _layers(loaded, records)
    RemoveForged(records)(loaded.graph_ir)
    dropped = {key: None for key in loaded.metadata if key.startswith(f"{MARK}.")}
    proto = model_io.render(loaded.proto, loaded.graph_ir, dropped)
    digest = hashlib.sha256(model_io.serialize(proto)).hexdigest()
    # The bytes of the model say nothing of the data beside it.
    if loaded.external or digest != loaded.metadata.get(SOURCE_FILE):
        _check_source(loaded, proto)
    files = model_io.save(loaded, proto, target) if target is not None else ()
    if files:
        digest = hashlib.sha256(files[0].read_bytes()).hexdigest()
    is_path = loaded.kind == "path"
    return StripResult(
        model=files[0] if is_path else model_io.give_back(loaded, proto),
        name=loaded.name,
        output=files[0] if files else None,
        files=files,
        layers=layers,
        ensemble=str(around) if around is not None else None,
        head=str(head) if head is not None else None,
        source=loaded.metadata[SOURCE],
        source_file=loaded.metadata.get(SOURCE_FILE),
        file=digest,
        differences=_differences(loaded),
        sampled=bool(loaded.external),
    )


def _target(model: object, output: str | os.PathLike[str] | None) -> Path | None:
    if output is not None:
        return Path(output)
    if not isinstance(model, (str, os.PathLike)):
        return None
    path = Path(model)
    if path.name.endswith(".hardened.onnx"):
        path = path.with_name(path.name.removesuffix(".hardened.onnx") + ".onnx")
    return model_io.beside(path, ".stripped.onnx")


def _check_ours(loaded: LoadedModel) -> None:
    metadata = loaded.metadata
    if not is_ours(metadata) or SOURCE not in metadata:
        raise ModelError(
            f"'{loaded.name}' is not hardened (its metadata has no '{SOURCE}' with what was "
            "done): there is nothing to strip"
        )
    if COLUMNS in metadata:
        layers = [r for r in read_records(metadata, COLUMNS) if r.get("columns")]
        raise ModelError(
            f"'{loaded.name}' was hardened by editing the weights of "
            f"{count(layers, 'layer')} (variant weight), and what stood there is not in the "
            f"file: take the original, {metadata[SOURCE]}"
        )
    if (scaled := read_record(metadata, LIPSCHITZ)) is not None:
        raise ModelError(
            f"'{loaded.name}' was rescaled to a product bound of {scaled.get('bound')}, which "
            "edited its weights and biases, and what stood there is not in the file: take the "
            f"original, {metadata[SOURCE]}"
        )


def _layers(loaded: LoadedModel, records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    for record in records:
        names = record.get("layers")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ModelError(
                f"'{loaded.name}' has damaged metadata: a record of '{SITES}' says layers = "
                f"{names!r:.80}, and not their names; nothing was written; take the original"
            )
    return tuple(name for record in records for name in record["layers"])


def _check_source(loaded: LoadedModel, proto: Any) -> None:
    digest = model_io.load(proto, loaded.base_dir).digest
    if digest != loaded.metadata[SOURCE]:
        raise CheckFailed(
            f"'{loaded.name}' without its forged functions is {digest}, and what was hardened "
            f"is {loaded.metadata[SOURCE]}: another tool changed the file after hardening; "
            "nothing was written; take the original"
        )


def _differences(loaded: LoadedModel) -> tuple[str, ...]:
    """Why the bytes may differ from the original's, although it computes the same."""
    found = []
    if INLINED in loaded.metadata:
        found.append(f"local functions were inlined: {loaded.metadata[INLINED]}")
    if loaded.external:
        found.append("external data lies in files of other names")
    return tuple(found) or ("it was serialised in another way: order or storage of fields",)


@dataclass(frozen=True, slots=True)
class StripResult:
    """What `strip` gave back.

    Attributes:
        model: The original, as the kind of object that was handed in; for a path, the path
            of the file that was written.
        name: Name of the hardened model.
        output: The file that was written, if any.
        files: Every file that was written, the model first.
        layers: Names of the layers whose forged function was taken out.
        ensemble: What was taken off around the model, in words, if anything.
        head: What the abstain head that was taken off said, if there was one.
        source: Digest of what the original computes; the result's is the same.
        source_file: SHA-256 of the original's file, in hexadecimal, where it was one.
        file: SHA-256 of the result's bytes.
        differences: Where the bytes are not identical: in what they differ.
        sampled: Whether the model has external data: of its large tensors only samples were
            compared, and the rest is what lay beside the hardened model.
    """

    model: Any
    name: str
    output: Path | None
    files: tuple[Path, ...]
    layers: tuple[str, ...]
    ensemble: str | None
    head: str | None
    source: str
    source_file: str | None
    file: str
    differences: tuple[str, ...]
    sampled: bool

    def __post_init__(self) -> None:
        if self.identical is not False:
            object.__setattr__(self, "differences", ())

    @property
    def identical(self) -> bool | None:
        """Whether these are the very bytes that were hardened; None where no file was."""
        return None if self.source_file is None else self.file == self.source_file

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "output": str(self.output) if self.output else None,
            "files": [str(path) for path in self.files],
            "layers": list(self.layers),
            "ensemble": self.ensemble,
            "abstain": self.head,
            "identical": self.identical,
            "differences": list(self.differences),
            "sampled": self.sampled,
            "source": self.source,
            "source_file": self.source_file,
            "file": self.file,
        }

    def __str__(self) -> str:
        done = [f"forged functions of {count(self.layers, 'layer')} taken out"]
        around = {"ensemble": self.ensemble, "abstain head": self.head}
        taken = [f"{what} taken off ({it})" for what, it in around.items() if it is not None]
        if taken:
            done = [*taken, *(done if self.layers else [])]
        lines = [f"{self.name}: {', '.join(done)}"]
        if self.identical:
            lines.append(
                f"byte-identical to the model that was hardened (sha256 {self.file[:12]}...)"
            )
        else:
            how = "has the digest of" if self.sampled else "computes what"
            did = "" if self.sampled else " did"
            lines.append(f"{how} the model that was hardened{did} ({self.source[:19]})")
            lines += [f"its bytes differ: {difference}" for difference in self.differences]
        if self.sampled:
            lines.append("large external tensors were compared by samples, the others in full")
        if self.identical is None:
            lines.append("whether the bytes are the same is unknown: no file was hardened")
        lines += [f"wrote '{path}' ({path.stat().st_size:,} bytes)" for path in self.files]
        return "\n".join(lines)
