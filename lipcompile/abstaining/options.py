"""What a user asks of an abstain head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from lipcompile.errors import OptionError
from lipcompile.text import parse_ratio

Kind = Literal["logit", "bool"]


@dataclass(frozen=True, slots=True)
class AbstainOptions:
    """Which answers count as certified, and how the model says so.

    Attributes:
        eps: eps_l2, the largest change of an image (l2, over all pixels in [0, 1] before
            normalisation) within which the answer must not change.
        kind: "logit" adds a class to the scores, which wins where the answer is not certified;
            "bool" adds an output `certified`, bool [N], and leaves the scores as they are.
        top: The answer must stay among the k highest scores; 1 for the highest.
        scores: The output with the class scores; None finds it by its shape.
    """

    eps: float
    kind: Kind = "logit"
    top: int = 1
    scores: str | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise OptionError(
                f"--abstain {self.eps:g} is out of range: give the l2 radius in pixel units "
                "within which answers must not change, a number above 0"
            )
        if self.kind not in get_args(Kind):
            raise OptionError(f"--abstain-as '{self.kind}' is unknown: use logit or bool")
        if self.top < 1:
            raise OptionError(f"--abstain-top {self.top} is out of range: give 1 or more")

    @classmethod
    def of(cls, value: AbstainOptions | float | str) -> AbstainOptions:
        """Options as they are, or those of a radius like 0.5 or "36/255".

        Raises:
            OptionError: It is no number above 0.
        """
        return value if isinstance(value, AbstainOptions) else cls(parse_radius(value))


def parse_radius(value: float | str) -> float:
    """A radius as people write it.

    Raises:
        OptionError: It is no number.
    """
    try:
        return parse_ratio(value) if isinstance(value, str) else float(value)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"--abstain '{value}' is no number: write it like 0.5 or 36/255"
        ) from error
