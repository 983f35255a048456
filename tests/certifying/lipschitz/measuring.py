"""Small classifiers, and how steep they are measured to be: lower bounds of every kind.

Three adversaries, none of which knows how bounds are computed. Two take the classifier as it
is, by the torch view in float64: difference quotients of points near and far, and singular
vectors of Jacobians. The third is stronger, and the one that unsound bounds do not survive: it
replaces each activation by a multiplication with slopes of its own choice, one per element,
within the activation's interval, and looks for the steepest choice. A bound that holds for
all functions with such slopes holds for that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch

from lipcompile import model_io
from lipcompile.certifying.lipschitz.bounds import LipschitzBounds, lipschitz_bounds
from lipcompile.certifying.lipschitz.network import Network
from lipcompile.certifying.lipschitz.reading import read_network
from lipcompile.labelled import Normalisation
from lipcompile.torchview import torch_view
from lipcompile.torchview.registry import OPERATORS

Dims = tuple[int, int, int]
Function = Callable[[torch.Tensor], torch.Tensor]
# Of operators whose slopes the third adversary chooses; LeakyRelu's depends on alpha.
INTERVALS = {
    "Relu": (0.0, 1.0),
    "Sigmoid": (0.0, 0.25),
    "Tanh": (0.0, 1.0),
    "Abs": (-1.0, 1.0),
    "Clip": (0.0, 1.0),
}
# Weights become float32 in the file; what is measured and bounded are those.
ROUNDING = 1e-9


def build(
    body: str,
    dims: Dims = (2, 7, 6),
    opset: int = 21,
    batch: str = "n",
    **arrays: np.ndarray | float,
) -> onnx.ModelProto:
    """A classifier from x to y in ONNX's text form; `arrays` are its initializers."""
    shape = ",".join(map(str, dims))
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]> '
        f"g (float[{batch},{shape}] x) => (float[{batch},classes] y) {{ {body} }}"
    )
    for name, value in arrays.items():
        array = np.asarray(value)
        wide = array.dtype == np.float64
        array = array.astype(np.float32) if wide else array
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def network_of(proto: onnx.ModelProto, dims: Dims = (2, 7, 6)) -> Network:
    return read_network(model_io.load(proto), Normalisation(), dims)


def bounds_of(proto: onnx.ModelProto, dims: Dims = (2, 7, 6)) -> LipschitzBounds:
    return lipschitz_bounds(model_io.load(proto), Normalisation(), dims)


def function_of(proto: onnx.ModelProto) -> Function:
    """Pixels [n, *dims] to logits [n, K], float64."""
    view = torch_view(proto, precision=torch.float64).requires_grad_(False)
    return lambda x: view(x).reshape(len(x), -1)


@dataclass
class Slopes:
    """Slopes of every activation, free within its interval.

    Attributes:
        chosen: By node, [1, ...].
        limits: By node.
    """

    chosen: dict[int, torch.Tensor] = field(default_factory=dict)
    limits: dict[int, tuple[float, float]] = field(default_factory=dict)

    def builder(self, node: Any, low: float, high: float) -> Callable[..., torch.Tensor]:
        key = len(self.limits)
        self.limits[key] = (low, high)

        def apply(x: torch.Tensor, *_: Any) -> torch.Tensor:
            if key not in self.chosen:
                self.chosen[key] = torch.full_like(x[:1], high).detach()
            return x * self.chosen[key]

        return apply


@contextmanager
def free_slopes() -> Iterator[Slopes]:
    """Views made inside have activations with slopes of the adversary's choice."""
    slopes, before = Slopes(), dict(OPERATORS)
    for name, (low, high) in INTERVALS.items():
        OPERATORS[name] = lambda node, low=low, high=high: slopes.builder(node, low, high)

    def leaky(node: Any) -> Callable[..., torch.Tensor]:
        ends = sorted((node.attribute("alpha", 0.01), 1.0))
        return slopes.builder(node, *ends)

    OPERATORS["LeakyRelu"] = leaky
    try:
        yield slopes
    finally:
        OPERATORS.update(before)


@dataclass
class Steepness:
    """The largest quotients that were found, as `LipschitzBounds` has them."""

    whole: float
    per_logit: np.ndarray
    pairwise: np.ndarray

    @classmethod
    def none(cls, classes: int) -> Steepness:
        return cls(0.0, np.zeros(classes), np.zeros((classes, classes)))

    def see(self, rows: np.ndarray) -> None:
        """Rows [m, K] of what the logits change by, over how much the pixels do."""
        apart = np.abs(rows[:, :, None] - rows[:, None]).max(axis=0)
        self.whole = max(self.whole, float(np.linalg.norm(rows, axis=1).max()))
        self.per_logit = np.maximum(self.per_logit, np.abs(rows).max(axis=0))
        self.pairwise = np.maximum(self.pairwise, apart)

    def see_jacobian(self, matrix: np.ndarray) -> None:
        """A matrix [K, pixels] that the logits follow, if only for a moment."""
        gram = matrix @ matrix.T
        square = np.diag(gram)
        apart = np.maximum(square[:, None] + square - 2 * gram, 0.0)
        self.whole = max(self.whole, float(np.linalg.norm(matrix, 2)))
        self.per_logit = np.maximum(self.per_logit, np.sqrt(square))
        self.pairwise = np.maximum(self.pairwise, np.sqrt(apart))

    def within(self, bounds: LipschitzBounds) -> bool:
        """Whether nothing here contradicts the bounds, of any method."""
        wider = 1 + ROUNDING
        return bool(
            self.whole <= wider * min(bounds.whole, bounds.product, *bounds.by_method.values())
            and (self.per_logit <= wider * bounds.per_logit).all()
            and (self.pairwise <= wider * bounds.pairwise + 1e-12).all()
        )

    def contradicts(self, methods: Mapping[str, float]) -> list[str]:
        return [name for name, value in methods.items() if self.whole > value * (1 + ROUNDING)]


def points(dims: Dims, count: int, generator: torch.Generator) -> torch.Tensor:
    scale = torch.logspace(-1, 1, count, dtype=torch.float64).reshape(-1, 1, 1, 1)
    drawn = torch.randn((count, *dims), dtype=torch.float64, generator=generator)
    return drawn * scale


def sampled(proto: onnx.ModelProto, dims: Dims, count: int = 6, seed: int = 0) -> Steepness:
    """Adversaries one and two: pairs of points near and far, and Jacobians."""
    generator = torch.Generator().manual_seed(seed)
    function = function_of(proto)
    x = points(dims, count, generator)
    for _ in range(3):  # uphill on the norm of a Jacobian, by its own singular vector
        x = _uphill(function, x, generator)
    logits = _one_by_one(function, x)
    found = Steepness.none(logits.shape[1])
    for i in range(count - 1):
        steps = (x[i + 1 :] - x[i]).flatten(1).norm(dim=1)
        found.see(((logits[i + 1 :] - logits[i]) / steps[:, None]).numpy())
    for one in x:
        found.see_jacobian(jacobian(function, one[None]))
    return found


def _one_by_one(function: Function, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([function(one[None]) for one in x])


def _uphill(function: Function, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    moved = []
    for one in x:
        toward = torch.randn((1, *one.shape), dtype=torch.float64, generator=generator)
        toward /= toward.norm()
        point = one[None].clone().requires_grad_()
        far = function(point + toward) - function(point)
        (gradient,) = torch.autograd.grad(far.square().sum(), point, allow_unused=True)
        step = torch.zeros_like(point) if gradient is None else gradient
        moved.append((point + step / (step.norm() + 1e-12)).detach()[0])
    return torch.stack(moved)


def jacobian(function: Function, point: torch.Tensor) -> np.ndarray:
    """Of the logits at one point [1, *dims]: float64 [K, pixels]."""
    found = torch.autograd.functional.jacobian(function, point)
    matrix: np.ndarray = found.reshape(found.shape[1], -1).numpy()
    return matrix


def steepest(
    proto: onnx.ModelProto, dims: Dims, rounds: int = 12, starts: int = 2, seed: int = 0
) -> Steepness:
    """Adversary three: the steepest slopes that it finds, for the vector of logits.

    Power iteration on the direction and, in turn, each slope to the end of its interval that
    makes the change of the logits larger: the change is linear in each of them.
    """
    generator = torch.Generator().manual_seed(seed)
    with free_slopes() as slopes:
        function = function_of(proto)
        zero = torch.zeros((1, *dims), dtype=torch.float64)
        found = Steepness.none(function(zero).shape[1])
        for start in range(starts):
            for key, (low, high) in slopes.limits.items():
                part = torch.rand(slopes.chosen[key].shape, generator=generator)
                ends = part.double().round() if start else torch.ones_like(part).double()
                slopes.chosen[key] = low + (high - low) * ends
            _climb(function, slopes, found, zero, generator, rounds)
    return found


def _climb(
    function: Function,
    slopes: Slopes,
    found: Steepness,
    zero: torch.Tensor,
    generator: torch.Generator,
    rounds: int,
) -> None:
    direction = torch.randn(zero.shape, dtype=torch.float64, generator=generator)
    for turn in range(rounds):
        direction = (direction / direction.norm()).detach().requires_grad_()
        leaves = {k: s.detach().requires_grad_() for k, s in slopes.chosen.items()}
        slopes.chosen.update(leaves)
        change = function(direction) - function(zero)
        found.see(change.detach().numpy())
        wanted = [direction, *leaves.values()]
        gradients = torch.autograd.grad(change.square().sum(), wanted, allow_unused=True)
        if gradients[0] is None or not gradients[0].any():
            return
        if turn % 3 != 2:
            direction = gradients[0]
            continue
        for (key, leaf), gradient in zip(leaves.items(), gradients[1:], strict=True):
            low, high = slopes.limits[key]
            if gradient is not None:
                ends = torch.where(gradient > 0, high, low).to(leaf)
                # One that is off has no gradient: it is tried again.
                steeper = high if abs(high) >= abs(low) else low
                slopes.chosen[key] = torch.where(gradient == 0, steeper, ends)
    slopes.chosen.update({k: s.detach() for k, s in slopes.chosen.items()})
