"""What a user asks of a rescaling."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lipcompile.errors import OptionError
from lipcompile.text import parse_ratio


@dataclass(frozen=True, slots=True)
class LipschitzOptions:
    """What a user asks of a rescaling.

    Attributes:
        bound: L, the product bound that the logits get, per unit of pixels in [0, 1], l2.
        scores: The output with the class scores; None finds it by its shape.
    """

    bound: float
    scores: str | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise OptionError(
                f"--lipschitz {self.bound:g} is out of range: give the bound that the model "
                "shall have, a number above 0"
            )

    @classmethod
    def of(cls, value: LipschitzOptions | float | str) -> LipschitzOptions:
        """Options as they are, or those of a number like 1 or "1/2".

        Raises:
            OptionError: It is no number above 0.
        """
        if isinstance(value, LipschitzOptions):
            return value
        try:
            return cls(parse_ratio(value) if isinstance(value, str) else float(value))
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"--lipschitz '{value}' is no number: write it like 1 or 0.5"
            ) from error
