"""One node as its builder sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch

from lipcompile.errors import ModelError
from lipcompile.torchview.backward import Gradient
from lipcompile.torchview.dtypes import to_tensor, torch_dtype

Arguments = Sequence[torch.Tensor | None]


@dataclass(frozen=True, slots=True)
class NodeView:
    """What a builder may ask about a node.

    Attributes:
        node: The node itself.
        opset: Version of the default operator set.
        known: Values of tensors that do not depend on the graph's inputs, by name.
        precision: The torch type that stands for ONNX's float32.
        gradient: "exact", or which surrogate the backward pass uses.
        run_graph: Makes a subgraph (of an If) runnable: it takes the tensors of the outer
            graph by name and returns the subgraph's outputs.
    """

    node: ir.Node
    opset: int
    known: Mapping[str, torch.Tensor]
    precision: torch.dtype
    gradient: Gradient
    run_graph: Callable[[ir.Graph], Callable[[dict[str, Any]], tuple[Any, ...]]]

    @property
    def label(self) -> str:
        """For messages: "Conv node 'conv1'"."""
        name = self.node.name or (self.node.outputs[0].name if self.node.outputs else "")
        return f"{self.node.op_type} node '{name}'"

    @property
    def input_count(self) -> int:
        return len(self.node.inputs)

    @property
    def output_count(self) -> int:
        return len(self.node.outputs)

    def has_input(self, index: int) -> bool:
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def wants_output(self, index: int) -> bool:
        return index < len(self.node.outputs) and bool(self.node.outputs[index].name)

    def attribute(self, name: str, default: Any = None) -> Any:
        """The attribute's value: int, float, str, a list of them, `ir.TensorProtocol` or
        `ir.Graph`; `default` where it is missing.
        """
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default
        value = attribute.value
        return list(value) if isinstance(value, tuple) else value

    def known_input(self, index: int) -> torch.Tensor | None:
        """The value of an input that does not depend on the graph's inputs, or None."""
        if not self.has_input(index):
            return None
        value = self.node.inputs[index]
        assert value is not None
        return self.known.get(value.name or "")

    def numbers(
        self, index: int, default: list[Any] | None = None
    ) -> Callable[[Arguments], Any]:
        """How to read a small operand (a shape, axes, pads) as a list of Python numbers.

        Returns:
            A function of the node's arguments: the list is made once where the operand is
            known when the view is made. `default` stands for an operand that is left out.
        """
        if not self.has_input(index):
            return lambda _: default
        known = self.known_input(index)
        if known is not None:
            numbers = known.reshape(-1).tolist()
            return lambda _: numbers

        def read(arguments: Arguments) -> list[Any]:
            operand = arguments[index]
            assert operand is not None
            return operand.detach().reshape(-1).tolist()

        return read

    def dtype(self, code: int) -> torch.dtype:
        """torch's type for an ONNX element type; float32 becomes the view's precision."""
        found = torch_dtype(code)
        if found is None:
            raise self.refuse(f"gives element type {_type_name(code)}, which torch lacks")
        return self.precision if found == torch.float32 else found

    def tensor(self, value: ir.TensorProtocol) -> torch.Tensor:
        """A tensor attribute as torch tensor, in the view's precision."""
        try:
            tensor = to_tensor(value.numpy())
        except TypeError as error:
            raise self.refuse(f"holds a tensor of {value.dtype}, which torch lacks") from error
        return tensor.to(self.precision) if tensor.dtype == torch.float32 else tensor

    def refuse(self, reason: str) -> ModelError:
        """The error for a use of the operator that the view does not support."""
        return ModelError(f"the torch view cannot run {self.label}: it {reason}")


def _type_name(code: int) -> str:
    try:
        return ir.DataType(code).name
    except ValueError:
        return str(code)
