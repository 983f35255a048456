"""The module: a graph's steps with its initializers as parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from lipcompile import model_io
from lipcompile.errors import DataError
from lipcompile.model_io import LoadedModel
from lipcompile.torchview import operators  # noqa: F401  (fills the registry)
from lipcompile.torchview.backward import Gradient, surrogates
from lipcompile.torchview.program import (
    Setting,
    compile_graph,
    initial_values,
    require_operators,
)
from lipcompile.torchview.registry import OPERATORS


class TorchView(torch.nn.Module):
    """An ONNX graph that torch computes and differentiates.

    Float initializers are parameters (`weight(name)`); integers and constants are buffers. The
    module is in evaluation mode for good: Dropout passes through, BatchNormalization uses its
    running statistics.

    Attributes:
        name: Of the model, for messages.
        input_names: Inputs that `forward` takes, in order.
        output_names: Outputs that it returns.
        gradient: "exact", or which surrogate the backward pass uses.
    """

    def __init__(
        self,
        model: LoadedModel,
        graph: ir.Graph,
        opset: int,
        gradient: Gradient,
        precision: torch.dtype,
    ) -> None:
        super().__init__()
        self.name = model.name
        self.gradient = gradient
        self.input_names = tuple(spec.name for spec in model.inputs)
        values = initial_values(graph, precision, model.name)
        weights = frozenset(k for k, v in values.items() if v.is_floating_point())
        replaced = surrogates(graph, model.metadata, gradient)
        setting = Setting(opset, precision, gradient, replaced, weights)
        self._program = compile_graph(graph, values, setting)
        self.output_names = self._program.outputs
        # torch forbids dots in names, and names that a module has already.
        self._weights = {name: f"p{i}" for i, name in enumerate(sorted(weights))}
        self._constants = {}
        for name, key in self._weights.items():
            self.register_parameter(key, torch.nn.Parameter(values[name]))
        read = {name for step in self._program.steps for name in step.inputs}
        read.update(self.output_names)
        captures = any(step.captures for step in self._program.steps)
        for index, (name, value) in enumerate(self._program.known.items()):
            if name in self._weights or not (captures or name in read):
                continue
            self._constants[name] = f"b{index}"
            self.register_buffer(f"b{index}", value)
        self._program.known.clear()
        self.eval()

    def weight(self, name: str) -> torch.nn.Parameter:
        """The parameter that holds the float initializer `name`."""
        return self.get_parameter(self._weights[name])

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Runs the graph.

        Args:
            inputs: One tensor per input of the model, batch axis included.

        Returns:
            The output, or a tuple of them where the model has several.

        Raises:
            DataError: Wrong number of inputs.
            RunFailure: torch cannot compute a node on these shapes.
        """
        if len(inputs) != len(self.input_names):
            raise DataError(
                f"'{self.name}' takes {len(self.input_names)} inputs "
                f"({', '.join(self.input_names)}), got {len(inputs)}: give one tensor for each"
            )
        environment: dict[str, Any] = dict(zip(self.input_names, inputs, strict=True))
        environment.update((n, self._parameters[k]) for n, k in self._weights.items())
        environment.update((n, self._buffers[k]) for n, k in self._constants.items())
        device = next((t.device for t in inputs), torch.device("cpu"))
        results = self._program.run(environment, device)
        return results[0] if len(results) == 1 else results


def torch_view(
    model: object,
    *,
    gradient: Gradient = "exact",
    precision: torch.dtype = torch.float32,
    outputs: Sequence[str] | None = None,
) -> TorchView:
    """A model as a differentiable `torch.nn.Module`.

    Operators that the view does not have are expanded where ONNX defines them by a function
    body; local functions are expanded as well.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model`, graphsurgeon `Graph`, or a
            `LoadedModel`.
        gradient: "exact" differentiates what is computed; for an int8 graph that is 0 almost
            everywhere, so "quantised" passes QuantizeLinear straight through (within its
            clipping range). "identity" and "smooth" do so too, and differentiate a
            surrogate of each forged function and of rounding operators (BPDA).
        precision: The torch type that stands for ONNX's float32: float64 to check gradients.
        outputs: Tensors to return in place of the graph's outputs.

    Raises:
        ModelError: The model cannot be read, or an operator is not supported; the message
            names every one that is missing.
    """
    loaded = model if isinstance(model, LoadedModel) else model_io.load(model)
    expanded, opset = model_io.expand_functions(loaded, frozenset(OPERATORS))
    graph = expanded.graph
    require_operators(graph, loaded.name)
    if outputs is not None:
        values = {v.name: v for node in graph for v in node.outputs}
        values |= {v.name: v for v in graph.inputs}
        graph.outputs[:] = [values[name] for name in outputs]
    return TorchView(loaded, graph, opset, gradient, precision)
