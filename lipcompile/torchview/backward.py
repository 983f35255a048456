"""Other gradients for the same values: BPDA (Athalye et al. 2018, arXiv 1802.00420).

A forged function hides gradients below its threshold. An adaptive attack keeps the forward
pass exact and differentiates a surrogate instead: the identity, or a smooth gate.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import onnx_ir as ir
import torch

from lipcompile.errors import ModelError, OptionError
from lipcompile.passes.shift_bias import upper_bound
from lipcompile.records import ENSEMBLE, read_sites

Gradient = Literal["exact", "quantised", "identity", "smooth"]
_COPY = re.compile(re.escape(ENSEMBLE) + r"/\d+/")
_STEEPNESS = 4.0  # of the smooth surrogate; slope at most 1.72 (`Smooth.slope` at a = 4)


@dataclass(frozen=True, slots=True)
class Surrogate:
    """What is differentiated in place of a step.

    Attributes:
        source: Name of the tensor that it is a function of; None for the step's first input.
        function: The differentiable function.
    """

    source: str | None
    function: Callable[[torch.Tensor], torch.Tensor]

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.source,) if self.source is not None else ()

    def value(self, environment: Mapping[str, Any], arguments: Sequence[Any]) -> torch.Tensor:
        source = arguments[0] if self.source is None else environment[self.source]
        return self.function(source)


class _StraightThrough(torch.autograd.Function):
    """Forward: the first argument. Backward: the gradient goes to the second."""

    @staticmethod
    def forward(value: torch.Tensor, surrogate: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.shape = inputs[1].shape

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, gradients[0].reshape(ctx.shape)

    @staticmethod
    def vmap(info: Any, dims: Any, value: Any, surrogate: Any) -> tuple[Any, int]:
        moved = [
            t.movedim(d, 0) if d is not None else t.expand(info.batch_size, *t.shape)
            for t, d in zip((value, surrogate), dims, strict=True)
        ]
        return straight_through(*moved), 0


def straight_through(value: torch.Tensor, surrogate: torch.Tensor) -> torch.Tensor:
    """Exactly `value`, with the gradient of `surrogate`, which has its shape and dtype."""
    result: torch.Tensor = _StraightThrough.apply(  # type: ignore[no-untyped-call]
        value, surrogate.to(value.dtype)
    )
    return result


def surrogates(
    graph: ir.Graph, metadata: Mapping[str, str], gradient: Gradient
) -> dict[str, Surrogate]:
    """The surrogates of a hardened model's forged functions, and of rounding operators.

    Args:
        graph: The graph.
        metadata: Its `metadata_props`, which name the sites.
        gradient: "exact" and "quantised" for none; "identity", or "smooth" for
            x * sigmoid(4 (|x| / c - 1)).

    Raises:
        OptionError: Unknown `gradient`.
        ModelError: The provenance is damaged, or names tensors that the graph lacks.
    """
    if gradient not in get_args(Gradient):
        raise OptionError(
            f"gradient = '{gradient}' is unknown: use {', '.join(get_args(Gradient))}"
        )
    if gradient in ("exact", "quantised"):
        return {}
    found = {
        node.outputs[0].name or "": Surrogate(None, _KNOWN[node.op_type])
        for node in ir.traversal.RecursiveGraphIterator(graph)
        if node.op_type in _KNOWN
    }
    producers = {value.name: node for node in graph for value in node.outputs}
    for record, prefix in itertools.product(read_sites(metadata), _branches(producers)):
        anchor, forged = record.get("at", record["tensor"]), record["forged"]
        if prefix and f"{prefix}{anchor}" not in producers:
            continue  # no view needs it: it leads to another output
        anchor, forged = f"{prefix}{anchor}", f"{prefix}{forged}"
        c = float(record["c"])
        shape = _identity if gradient == "identity" else _Gate(c)
        if anchor != forged:
            found[forged] = Surrogate(anchor, shape)
        elif record.get("way") == "bias":  # relu(z - c), where z - c is what it reads
            cap = upper_bound(producers[anchor]) if anchor in producers else None
            found[anchor] = Surrogate(None, _AfterRelu(shape, c, cap))
        else:  # a ThresholdedRelu in place of a Relu
            found[anchor] = Surrogate(None, _AfterRelu(shape))
        if anchor not in producers or forged not in producers:
            raise ModelError(
                f"the provenance names the tensors '{anchor}' and '{forged}', and the graph "
                "lacks one: a tool changed the file after it was hardened; use the file that "
                "lipcompile harden wrote, or harden what the tool makes of the original"
            )
    return found


def _branches(names: Iterable[str | None]) -> list[str]:
    """What stands before the names of tensors, for each copy of the model in an ensemble."""
    found = {match[0] for name in names if name and (match := _COPY.match(name))}
    return ["", *sorted(found)]


def _identity(x: torch.Tensor) -> torch.Tensor:
    return x


# Operators whose derivative is zero almost everywhere, or below a threshold.
_KNOWN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Round": _identity,
    "Floor": _identity,
    "Ceil": _identity,
    "Sign": _identity,
    "Shrink": _identity,
    "ThresholdedRelu": torch.relu,
}


@dataclass(frozen=True, slots=True)
class _Gate:
    """x * sigmoid(4 (|x| / c - 1)): `smooth` with a gentle gate."""

    c: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(_STEEPNESS * (x.abs() / self.c - 1.0))


@dataclass(frozen=True, slots=True)
class _AfterRelu:
    """Of what a Relu reads, less `shift`: of the Relu as it was before it was forged, or of
    a Clip from 0, whose upper bound is now `cap`."""

    surrogate: Callable[[torch.Tensor], torch.Tensor]
    shift: float = 0.0
    cap: float | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        before = torch.relu(x + self.shift)
        if self.cap is not None:
            before = before.clamp(max=self.cap + self.shift)
        return self.surrogate(before)
