"""A rescaling: which bound was asked for, and the factor of every group of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lipcompile.errors import ModelError
from lipcompile.labelled.pixel_domain import PixelDomain
from lipcompile.rescaling.factors import choose_exponents
from lipcompile.rescaling.homogeneous import Network
from lipcompile.rescaling.options import LipschitzOptions


@dataclass(frozen=True, slots=True)
class Rescaling:
    """What was done to a network.

    Attributes:
        bound: The product bound that it has now.
        product: The one that it had; both of the logits, l2, per unit of pixels in [0, 1].
        exponents: First tensor of a group -> k, where every tensor of the group became 2^k
            times what it was.
        scores: Name of the output with the class scores.
        ends_in: "Softmax" or "LogSoftmax" where that gives the scores: decisions stay then,
            and probabilities change.
        pixels: What the bounds are about.
    """

    bound: float
    product: float
    exponents: Mapping[str, int]
    scores: str
    ends_in: str | None
    pixels: PixelDomain

    @property
    def factor(self) -> float:
        """What the logits are multiplied by."""
        return self.bound / self.product

    def to_json(self) -> dict[str, Any]:
        """What the provenance holds."""
        return {
            "bound": self.bound,
            "product": self.product,
            "factor": self.factor,
            "exponents": dict(self.exponents),
            "scores": self.scores,
            "ends_in": self.ends_in,
            **self.pixels.to_json(),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Rescaling:
        """The value that `to_json` wrote.

        Raises:
            LookupError, TypeError, ValueError: It lacks a value, or has an illegal one.
        """
        bound, product = float(record["bound"]), float(record["product"])
        if not (0 < bound < math.inf and 0 < product < math.inf):
            raise ValueError(f"bounds {bound} and {product} are no bounds of a network")
        if not 0 < bound / product < math.inf:
            raise ValueError(f"no factor makes a bound of {bound} from {product}")
        exponents = {str(name): int(k) for name, k in record["exponents"].items()}
        pixels = PixelDomain.from_json(record)
        return cls(bound, product, exponents, str(record["scores"]), record["ends_in"], pixels)

    def __str__(self) -> str:
        text = (
            f"product bound {self.product:.4g} -> {self.bound:.4g} (logits times "
            f"{self.factor:.4g}; l2, {self.pixels})"
        )
        if self.ends_in is None:
            return text
        return f"{text}; the probabilities behind {self.ends_in} change, and no decision does"


def plan_rescaling(
    network: Network,
    options: LipschitzOptions,
    product: float,
    scores: str,
    pixels: PixelDomain,
) -> Rescaling:
    """Chooses the factors.

    Args:
        network: What is rescaled.
        options: What is asked for.
        product: Product bound of the network as it is.
        scores: Name of its output with the class scores.
        pixels: What that bound is about.

    Raises:
        ModelError: The bound is 0 or infinite: nothing to scale.
    """
    if not 0 < product < math.inf:
        raise ModelError(
            f"the product bound of the scores '{scores}' is {product}, which no factor makes "
            f"{options.bound:g}: leave --lipschitz out"
        )
    # Bounds are the same to about 1e-15 on other machines: to 12 digits, they are the same.
    product = float(f"{product:.12g}")
    exponents = choose_exponents(network, options.bound / product)
    named = {value.name or "": k for value, k in exponents.items()}
    return Rescaling(options.bound, product, named, scores, network.ends_in, pixels)
