"""What a model takes and gives, as Triton's onnxruntime backend sees it.

The backend compares the dims of a configuration with what its session reports, and refuses to
load where they differ. A session knows more than the file declares (it infers shapes), so the
numbers come from a session here as well.
https://github.com/triton-inference-server/onnxruntime_backend, ValidateInputs, ValidateOutputs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lipcompile.errors import ModelError
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import load_onnxruntime
from lipcompile.signature import TensorSpec

# ConvertFromOnnxDataType of the backend: neither bfloat16 nor 8-bit floats are among them.
_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float": "TYPE_FP32",
    "double": "TYPE_FP64",
    "string": "TYPE_STRING",
}
_FATAL = 4


@dataclass(frozen=True, slots=True)
class ServedTensor:
    """An input or output in Triton's words.

    Attributes:
        name: As in the model.
        data_type: "TYPE_FP32" and so on.
        shape: One entry per axis: an int where it is fixed, a str (possibly empty) where it is
            dynamic.
    """

    name: str
    data_type: str
    shape: tuple[int | str, ...]

    @property
    def batch(self) -> str | None:
        """Name of axis 0 where it is dynamic (possibly empty), else None."""
        first = self.shape[0] if self.shape else None
        return first if isinstance(first, str) else None

    def dims(self, batched: bool) -> tuple[int, ...]:
        """The axes that a configuration lists; -1 where an axis is dynamic."""
        rest = self.shape[1:] if batched else self.shape
        return tuple(-1 if isinstance(axis, str) else axis for axis in rest)


@dataclass(frozen=True, slots=True)
class ServedSignature:
    """All inputs and outputs of a model."""

    inputs: tuple[ServedTensor, ...]
    outputs: tuple[ServedTensor, ...]

    def no_batch(self) -> str | None:
        """Why axis 0 cannot be counted on to be the batch; None where it can."""
        every = (*self.inputs, *self.outputs)
        for tensor in every:
            if tensor.batch is None:
                what = f"is fixed to {tensor.shape[0]}" if tensor.shape else "does not exist"
                return f"axis 0 of '{tensor.name}' {what}"
        named = {tensor.batch: tensor.name for tensor in every if tensor.batch}
        if len(named) > 1:
            listed = ", ".join(f"'{axis}' of '{name}'" for axis, name in named.items())
            return f"axis 0 has more than one name ({listed})"
        return None


def read_signature(model: LoadedModel) -> ServedSignature:
    """The signature of a model on disk, from a session of ONNX Runtime.

    Raises:
        ModelError: ONNX Runtime does not load it, or a tensor cannot be served.
        MissingExtraError: ONNX Runtime is not installed.
    """
    session = _open(model)
    declared = {spec.name: spec for spec in (*model.inputs, *model.outputs)}
    return ServedSignature(
        _tensors("input", session.get_inputs(), declared),
        _tensors("output", session.get_outputs(), declared),
    )


def _open(model: LoadedModel) -> Any:
    """A session; `runtime.open_session` gives one that does not tell shapes."""
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    try:
        return ort.InferenceSession(
            str(model.path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions share no base class but this one
        raise ModelError(
            f"ONNX Runtime {ort.__version__} does not load '{model.name}', so that Triton "
            f"would not either ({str(error).splitlines()[0][:300]}): see 'lipcompile inspect'"
        ) from error


def _tensors(
    kind: str, reported: Sequence[Any], declared: dict[str, TensorSpec]
) -> tuple[ServedTensor, ...]:
    return tuple(
        ServedTensor(
            item.name,
            _data_type(kind, item.name, item.type),
            _shape(kind, item, declared.get(item.name)),
        )
        for item in reported
    )


def _data_type(kind: str, name: str, reported: str) -> str:
    element = reported.removeprefix("tensor(").removesuffix(")")
    found = _TYPES.get(element) if reported == f"tensor({element})" else None
    if found is None:
        raise ModelError(
            f"{kind} '{name}' is {reported}, which Triton's onnxruntime backend does not "
            f"serve: export the model with tensors of {', '.join(_TYPES)}"
        )
    return found


def _shape(kind: str, item: Any, declared: TensorSpec | None) -> tuple[int | str, ...]:
    axes = tuple(item.shape)
    if not axes and (declared is None or declared.shape is None):
        raise ModelError(
            f"{kind} '{item.name}' has no shape, not even a number of axes, and Triton wants "
            "one: export the model with shapes, or add them with onnx.shape_inference"
        )
    if 0 in axes:
        raise ModelError(
            f"{kind} '{item.name}' has the shape {list(axes)}, and Triton takes no axis of "
            "length 0: export the model with real or dynamic lengths"
        )
    return tuple(
        axis if isinstance(axis, int) and axis > 0 else axis if isinstance(axis, str) else ""
        for axis in axes
    )
