"""A graph as a list of steps that torch can run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir
import torch

from lipcompile.errors import ModelError, RunFailure
from lipcompile.ops import STANDARD_DOMAINS
from lipcompile.torchview.backward import Gradient, Surrogate, straight_through
from lipcompile.torchview.dtypes import to_tensor
from lipcompile.torchview.node import NodeView
from lipcompile.torchview.registry import OPERATORS, Operation

Environment = dict[str, Any]
# Constants above this size are computed again in every run rather than kept twice.
_FOLD_LIMIT = 1 << 22  # elements


@dataclass(frozen=True, slots=True)
class Step:
    """One node, ready to run.

    Attributes:
        label: For messages.
        operation: Computes the outputs.
        inputs: Names of its arguments; "" for one that is left out.
        outputs: Names of its results; "" for one that nobody wants.
        captures: Whether it holds a subgraph, which reads any tensor of the environment.
        surrogate: What the backward pass differentiates instead, if anything.
        last_use: Tensors that no later step reads.
    """

    label: str
    operation: Operation
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captures: bool
    surrogate: Surrogate | None
    last_use: tuple[str, ...] = ()


@dataclass(slots=True)
class Program:
    """The steps of one graph.

    Attributes:
        steps: In the graph's order.
        outputs: Names of the graph's outputs.
        known: Tensors that do not depend on the graph's inputs, except for float
            initializers, which the view holds as parameters.
    """

    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    known: dict[str, torch.Tensor] = field(default_factory=dict)

    def run(self, environment: Environment, device: torch.device) -> tuple[Any, ...]:
        """Runs the steps.

        Args:
            environment: Inputs and initializers by name; it is changed.
            device: Where the float tensors are.

        Raises:
            RunFailure: torch could not compute a step; the message names the node.
        """
        accelerated = device.type != "cpu"
        for step in self.steps:
            arguments = [environment[name] if name else None for name in step.inputs]
            if accelerated:
                arguments = _together(arguments, device)
            if step.captures:
                arguments = [environment, *arguments]
            results = _compute(step, arguments)
            if step.surrogate is not None:
                source = step.surrogate.value(environment, arguments)
                results = (straight_through(results[0], source), *results[1:])
            for name, result in zip(step.outputs, results, strict=False):
                if name:
                    environment[name] = result
            for name in step.last_use:
                environment.pop(name, None)
        return tuple(environment[name] for name in self.outputs)


def _compute(step: Step, arguments: list[Any]) -> tuple[Any, ...]:
    try:
        results = step.operation(*arguments)
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        shapes = ", ".join(
            str(list(a.shape)) for a in arguments if isinstance(a, torch.Tensor)
        )
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunFailure(
            f"the torch view could not run {step.label} on inputs of shape {shapes} "
            f"({reason}): check that ONNX Runtime runs the model on such inputs"
        ) from error
    return results if isinstance(results, tuple) else (results,)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch ran out of memory, on any device."""
    text = str(error)
    return (
        isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
        or "can't allocate memory" in text
        or "out of memory" in text
    )


def _together(arguments: list[Any], device: torch.device) -> list[Any]:
    """Shapes live on the CPU; beside a tensor on the device they follow it there."""
    tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
    if not any(t.device.type == device.type for t in tensors):
        return arguments
    return [a.to(device) if isinstance(a, torch.Tensor) else a for a in arguments]


@dataclass(frozen=True, slots=True)
class Setting:
    """What holds for a graph and its subgraphs alike.

    Attributes:
        opset: Version of the default operator set.
        precision: The torch type that stands for float32.
        gradient: "exact", or which surrogate the backward pass uses.
        surrogates: By the name of a tensor, what its backward pass differentiates instead.
        parameters: Names of float initializers, which may change after compiling.
    """

    opset: int
    precision: torch.dtype
    gradient: Gradient
    surrogates: Mapping[str, Surrogate]
    parameters: frozenset[str]


def compile_graph(
    graph: ir.Graph | ir.GraphView, outer: Mapping[str, torch.Tensor], setting: Setting
) -> Program:
    """Turns a graph into steps; nodes that depend on no input and no parameter are computed.

    Args:
        graph: The main graph, or a subgraph.
        outer: Tensors known around it, by name.
        setting: How to compile it.

    Raises:
        ModelError: An operator, or a use of it, is not supported.
    """
    known = dict(outer)
    steps: list[Step] = []
    outputs = tuple(value.name or "" for value in graph.outputs)
    for node in graph:
        step = _build(node, known, setting)
        read = [name for name in step.inputs if name]
        fixed = all(name in known and name not in setting.parameters for name in read)
        if fixed and not step.captures and not _is_random(node):
            _fold(step, known)
        if not all(name in known for name in step.outputs if name):
            steps.append(step)
    return Program(_with_last_uses(steps, outputs), outputs, known)


def _build(node: ir.Node, known: Mapping[str, torch.Tensor], setting: Setting) -> Step:
    view = NodeView(
        node,
        setting.opset,
        known,
        setting.precision,
        setting.gradient,
        lambda subgraph: _runnable(subgraph, known, setting),
    )
    outputs = tuple(value.name or "" for value in node.outputs)
    try:
        operation = OPERATORS[node.op_type](view)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise view.refuse(f"has attributes that make no sense ({error})") from error
    return Step(
        view.label,
        operation,
        tuple(value.name or "" if value is not None else "" for value in node.inputs),
        outputs,
        any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values()),
        setting.surrogates.get(outputs[0]) if outputs else None,
    )


def _runnable(
    subgraph: ir.Graph, known: Mapping[str, torch.Tensor], setting: Setting
) -> Callable[[Environment], tuple[Any, ...]]:
    """A subgraph as a function of the outer graph's tensors."""
    own = initial_values(subgraph, setting.precision, subgraph.name or "a subgraph")
    inner = compile_graph(subgraph, {**known, **own}, setting)
    constants = {name: t for name, t in inner.known.items() if name not in known}

    def run(environment: Environment) -> tuple[Any, ...]:
        devices = {t.device for t in environment.values() if isinstance(t, torch.Tensor)}
        device = next((d for d in devices if d.type != "cpu"), torch.device("cpu"))
        return inner.run({**environment, **constants}, device)

    return run


def _is_random(node: ir.Node) -> bool:
    return node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")


def _fold(step: Step, known: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        results = _compute(step, [known[name] if name else None for name in step.inputs])
    for name, result in zip(step.outputs, results, strict=False):
        if name and isinstance(result, torch.Tensor) and result.numel() <= _FOLD_LIMIT:
            known[name] = result


def _with_last_uses(steps: Iterable[Step], outputs: tuple[str, ...]) -> tuple[Step, ...]:
    """Lets every tensor go after its last reader, unless a subgraph may read it."""
    ordered = list(steps)
    if any(step.captures for step in ordered):
        return tuple(ordered)
    needed, result = set(outputs), []
    for step in reversed(ordered):
        read = {*step.inputs, *(step.surrogate.reads if step.surrogate else ())}
        unused = {name for name in (*read, *step.outputs) if name and name not in needed}
        needed |= read
        result.append(replace(step, last_use=tuple(sorted(unused))))
    return tuple(reversed(result))


def require_operators(graph: ir.Graph, name: str) -> None:
    """Every operator of a graph is one that the view has.

    Raises:
        ModelError: It names every operator that is missing, with its first node.
    """
    missing: dict[str, str] = {}
    for node in ir.traversal.RecursiveGraphIterator(graph):
        standard = node.domain in STANDARD_DOMAINS
        if not standard or node.op_type not in OPERATORS:
            full = node.op_type if standard else f"{node.domain}.{node.op_type}"
            missing.setdefault(full, node.name or (node.outputs[0].name or ""))
    if missing:
        listed = ", ".join(f"'{op}' (node '{first}')" for op, first in missing.items())
        raise ModelError(
            f"'{name}' cannot be differentiated: the torch view has no operator {listed}; "
            "export the model with operators that it has (docs/torchview.md lists them)"
        )


def initial_values(
    graph: ir.Graph, precision: torch.dtype, name: str
) -> dict[str, torch.Tensor]:
    """The graph's initializers as tensors; float32 becomes `precision`.

    Raises:
        ModelError: One has an element type that torch lacks.
    """
    values = {}
    for key, value in graph.initializers.items():
        if value.const_value is None:
            continue
        try:
            tensor = to_tensor(value.const_value.numpy())
        except TypeError as error:
            raise ModelError(
                f"'{name}' cannot be differentiated: weight '{key}' has element type "
                f"{value.const_value.dtype}, which torch lacks"
            ) from error
        values[key] = tensor.to(precision) if tensor.dtype == torch.float32 else tensor
    return values
