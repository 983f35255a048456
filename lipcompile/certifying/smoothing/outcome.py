"""What smoothing says of one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from lipcompile.calibration.json_values import decoded, of_type

Answer = Literal["certified", "predicted", "abstained", "yes", "no", "undecided"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer for one image.

    Attributes:
        answer: "certified" or "abstained" of `certify`, "predicted" or "abstained" of
            `predict`, "yes", "no" or "undecided" of `test`.
        label: The class of the smoothed model, as far as it is claimed: None for "abstained",
            "no" and "undecided".
        radius_l2: The smoothed model gives `label` on the whole l2 ball of this radius around
            the image, in pixel units, with confidence 1 - alpha; 0 where nothing is certified.
        top: The class that was counted; None where every draw gave NaN.
        successes: Draws that gave it.
        draws: Draws that were counted, those with NaN among them.
        selection: Draws before that, which selected `top`.
        p_lower: Lower limit of the probability of `top` under noise: exact for `certify`, the
            p of the radius for a "yes" of `test`, else None.
    """

    answer: Answer
    label: int | None
    radius_l2: float
    top: int | None
    successes: int
    draws: int
    selection: int
    p_lower: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Outcome:
        """Reads what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: It is damaged.
        """
        if content["answer"] not in get_args(Answer):
            raise ValueError(f"no such answer: {content['answer']!r}")
        label, top, p = (content[key] for key in ("label", "top", "p_lower"))
        return cls(
            content["answer"],
            None if label is None else of_type(int, label),
            decoded(content["radius_l2"]),
            None if top is None else of_type(int, top),
            of_type(int, content["successes"]),
            of_type(int, content["draws"]),
            of_type(int, content["selection"]),
            None if p is None else decoded(p),
        )

    def __str__(self) -> str:
        votes = f"{self.successes:,} of {self.draws:,} draws"
        if self.top is None:
            return f"{self.answer}: no draw that selects gave a score"
        if self.radius_l2:
            return f"{self.answer}: class {self.label}, radius {self.radius_l2:.4g} ({votes})"
        return f"{self.answer}: class {self.top} has {votes}"
