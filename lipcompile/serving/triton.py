"""export_triton(): a model as a folder of a Triton Inference Server repository."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from lipcompile import model_io
from lipcompile.errors import ModelError, OptionError
from lipcompile.labelled.class_names import Classes, read_classes
from lipcompile.model_io import LoadedModel
from lipcompile.ops import MARK
from lipcompile.records import ABSTAIN, ENSEMBLE, LIPSCHITZ, SOURCE, SOURCE_FILE, is_ours
from lipcompile.scores import score_output
from lipcompile.serving.config import Platform, make_config
from lipcompile.serving.repository import (
    MODEL_FILE,
    Place,
    check_place,
    merged_config,
    write_version,
)
from lipcompile.serving.signature import ServedSignature, ServedTensor, read_signature
from lipcompile.text import count, table

_DEFAULT_BATCH = 8
_TOLD = ("version", "table", "variant", "form", "a", "b", "c_r", "c_r_by_layer", "zero_rate")
_CLAIMS = (
    SOURCE,
    SOURCE_FILE,
    ENSEMBLE,
    LIPSCHITZ,
    ABSTAIN,
    *(f"{MARK}.{name}" for name in _TOLD),
)


def export_triton(
    model: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    *,
    name: str | None = None,
    model_version: int = 1,
    labels: Classes | None = None,
    scores: str | None = None,
    max_batch_size: int | None = None,
    platform: Platform = "any",
    force: bool = False,
) -> TritonExport:
    """Puts a model into a Triton model repository: configuration, labels, and the bytes.

    The model is copied, not changed, and so is its external data. Where the model is there in
    other versions, these stay, and the configuration has to be the same.

    Args:
        model: Path of the model, hardened or not.
        repository: The folder that Triton is given; made where its parent exists.
        name: Of the model; the default is the file's, without ending.
        model_version: From 1.
        labels: Names of the classes: a file as for `--classes`, or a sequence.
        scores: The output that they are about, where there are several.
        max_batch_size: 0 for none; the default is 8 where axis 0 is a batch, else 0.
        platform: "any" (Triton chooses), "cpu", "gpu", or "tensorrt" (ONNX Runtime's TensorRT
            provider on a GPU).
        force: Replace the version, and a configuration that differs.

    Raises:
        ModelError: The model cannot be read, or Triton could not serve it.
        OptionError: An argument is not legal for this model.
        DataError: The labels cannot be read.
        OutputError: The place is taken, or cannot be written.
        MissingExtraError: ONNX Runtime is not installed.
    """
    source = Path(model)
    place = Place(Path(repository), _name(source) if name is None else name, model_version)
    if platform not in get_args(Platform):
        raise OptionError(
            f"platform '{platform}' is unknown: use one of {', '.join(get_args(Platform))}"
        )
    loaded = model_io.load(source)
    _check_data_names(loaded)
    check_place(place, source, force)
    signature = read_signature(loaded)
    batch, note = _batch(signature, max_batch_size)
    names = None if labels is None else read_classes(labels).names
    labelled = None if names is None else _labelled(loaded, signature, scores, names)
    claims = {"digest": loaded.digest, **_provenance(loaded)}
    config = make_config(
        place.name, signature, batch, platform, labelled, {model_version: claims}
    )
    text = None if names is None else "\n".join([*names, ""])
    config = merged_config(place, config, text, force)
    files = write_version(place, loaded, config, text)
    return TritonExport(
        model=loaded.name,
        name=place.name,
        version=model_version,
        files=files,
        signature=signature,
        max_batch_size=batch,
        labels=len(names or ()),
        labelled=labelled,
        claims=claims,
        hardened=is_ours(loaded.metadata),
        note=note,
    )


def _name(path: Path) -> str:
    """The file's name without ending, as a plain word."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem)


def _check_data_names(model: LoadedModel) -> None:
    if any(Path(item.location) == Path(MODEL_FILE) for item in model.external):
        raise ModelError(
            f"'{model.name}' keeps its weights in a file named '{MODEL_FILE}', which is what "
            "Triton wants the model itself to be named: save it with other external data"
        )


def _batch(signature: ServedSignature, wanted: int | None) -> tuple[int, str | None]:
    """The largest batch, and why there is none where that was not asked for."""
    reason = signature.no_batch()
    if wanted is None:
        return (_DEFAULT_BATCH, None) if reason is None else (0, reason)
    if not 0 <= wanted < 2**31:
        raise OptionError(f"--max-batch-size {wanted} is not legal: give 0 (none) or more")
    every = (*signature.inputs, *signature.outputs)
    if wanted and any(tensor.batch is None for tensor in every):
        raise OptionError(
            f"--max-batch-size {wanted} needs a dynamic axis 0 everywhere, and {reason}: "
            "leave the flag out, or export the model with a dynamic batch"
        )
    return wanted, None


def _labelled(
    model: LoadedModel,
    signature: ServedSignature,
    scores: str | None,
    names: tuple[str, ...],
) -> str:
    """The output that labels are about."""
    output = score_output(model, scores).name
    if bad := [name for name in names if "\n" in name or "\r" in name]:
        raise OptionError(
            f"label {bad[0]!r} holds a line break, and Triton reads one label per line: "
            "change it"
        )
    shape = next(tensor.shape for tensor in signature.outputs if tensor.name == output)
    classes = shape[1] if len(shape) > 1 else None
    if isinstance(classes, int) and classes != len(names):
        raise OptionError(
            f"--labels has {count(names, 'name')}, and output '{output}' has {classes} "
            "classes: give one name per class, in the model's order"
        )
    return output


def _provenance(model: LoadedModel) -> dict[str, str]:
    """What the file says of itself, without the records of each site."""
    known = model.metadata
    return {key.removeprefix(f"{MARK}."): known[key] for key in _CLAIMS if key in known}


@dataclass(frozen=True, slots=True)
class TritonExport:
    """What was written.

    Attributes:
        model: Name of the file that was exported.
        name: Of the model in the repository.
        version: Of the model.
        files: Configuration, labels, model, external data.
        signature: Inputs and outputs.
        max_batch_size: 0 where there is no batching.
        labels: How many labels there are.
        labelled: The output that they are about.
        claims: What the configuration repeats of the file's provenance.
        hardened: Whether the file was made by LipCompile.
        note: Why there is no batching, where that was not asked for.
    """

    model: str
    name: str
    version: int
    files: tuple[Path, ...]
    signature: ServedSignature
    max_batch_size: int
    labels: int
    labelled: str | None
    claims: Mapping[str, str]
    hardened: bool
    note: str | None

    def to_json(self) -> dict[str, Any]:
        batched = self.max_batch_size > 0
        return {
            "model": self.model,
            "name": self.name,
            "version": self.version,
            "files": [str(path) for path in self.files],
            "inputs": [_tensor_json(tensor, batched) for tensor in self.signature.inputs],
            "outputs": [_tensor_json(tensor, batched) for tensor in self.signature.outputs],
            "max_batch_size": self.max_batch_size,
            "labels": self.labels,
            "labelled": self.labelled,
            "provenance": dict(self.claims),
            "hardened": self.hardened,
            "note": self.note,
        }

    def __str__(self) -> str:
        batched = self.max_batch_size > 0
        rows = [
            (kind, tensor.name, tensor.data_type, str(list(tensor.dims(batched))))
            for kind, tensors in (
                ("input", self.signature.inputs),
                ("output", self.signature.outputs),
            )
            for tensor in tensors
        ]
        batch = f"batches of up to {self.max_batch_size}" if batched else "no batching"
        note = f" ({self.note})" if self.note else ""
        lines = [
            f"{self.model}: model '{self.name}', version {self.version}, {batch}{note}",
            "",
            *table(("", "name", "data type", "dims"), rows),
            "",
        ]
        if not self.hardened:
            lines.append("not made by LipCompile: the file says nothing of hardening")
        if self.labelled is not None:
            lines.append(f"{self.labels} labels on output '{self.labelled}'")
        return "\n".join([*lines, *(f"wrote '{path}'" for path in self.files)])


def _tensor_json(tensor: ServedTensor, batched: bool) -> dict[str, Any]:
    dims = list(tensor.dims(batched))
    return {"name": tensor.name, "data_type": tensor.data_type, "dims": dims}
