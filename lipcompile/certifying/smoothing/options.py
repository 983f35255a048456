"""What a user asks of randomized smoothing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from scipy import special

from lipcompile.errors import OptionError

Procedure = Literal["certify", "predict", "test"]
_MOST_SIGMAS = 8.0  # beyond, Phi is 1 to the last bits, and no number of draws proves it


@dataclass(frozen=True, slots=True)
class SmoothingOptions:
    """How an image is smoothed, and what is asked about it.

    Attributes:
        sigma: Standard deviation of the noise on each pixel value, in pixel units in [0, 1],
            before normalisation; > 0. Noisy pixels are not clipped.
        procedure: "certify" bounds the radius, "predict" names the class of the smoothed
            model, "test" asks whether the radius is at least `radius`.
        n0: Draws that select the class, for "certify" and "test"; >= 1.
        n: Draws that count, other ones; for "test" the most that are made; >= 1.
        alpha: How probable a wrong answer may be, for each image; in (0, 1/2).
        radius: For "test": the l2 radius r > 0 in pixel units.
        seed: Of the noise; >= 0.
        batch: Noisy images per run of the model; None chooses. It changes no count.
    """

    sigma: float
    procedure: Procedure = "certify"
    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    radius: float | None = None
    seed: int = 0
    batch: int | None = None

    def __post_init__(self) -> None:
        self._check_numbers()
        if self.procedure not in get_args(Procedure):
            raise OptionError(
                f"procedure '{self.procedure}' of randomized smoothing is unknown: use "
                f"{', '.join(get_args(Procedure))}"
            )
        if (self.radius is None) is (self.procedure == "test"):
            raise OptionError(
                f"procedure '{self.procedure}' with radius = {self.radius}: 'test' asks about "
                "a radius, and the others take none"
            )
        if self.radius is not None and not 0 < self.radius <= _MOST_SIGMAS * self.sigma:
            raise OptionError(
                f"radius = {self.radius:g} is out of range: it is an l2 radius in pixel "
                f"units, above 0 and at most {_MOST_SIGMAS:g} sigma = "
                f"{_MOST_SIGMAS * self.sigma:g}"
            )

    def _check_numbers(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise OptionError(
                f"sigma = {self.sigma:g} is out of range: it must be above 0, in pixel units "
                "in [0, 1], for example 0.25"
            )
        if not 0 < self.alpha < 0.5:
            raise OptionError(
                f"alpha = {self.alpha:g} is out of range: it is the probability of a wrong "
                "answer, between 0 and 1/2, for example 0.001"
            )
        if self.n0 < 1 or self.n < 1:
            raise OptionError(
                f"n0 = {self.n0}, n = {self.n}: both numbers of draws must be at least 1"
            )
        if self.seed < 0:
            raise OptionError(f"seed = {self.seed} is negative: it must be 0 or more")
        if self.batch is not None and self.batch < 1:
            raise OptionError(f"batch = {self.batch} is out of range: it must be at least 1")

    @property
    def needed_probability(self) -> float:
        """Phi(radius / sigma): how probable a class must be for "test" to say yes."""
        assert self.radius is not None
        return float(special.ndtr(self.radius / self.sigma))

    def to_json(self) -> dict[str, Any]:
        """All but the batch, which changes no result."""
        return {key: value for key, value in asdict(self).items() if key != "batch"}
