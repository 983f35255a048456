"""What a user asks of an ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lipcompile.ensembles.views import parse_views
from lipcompile.errors import OptionError

Mean = Literal["scores", "logits", "probabilities"]
Way = Literal["batch", "branches"]


@dataclass(frozen=True, slots=True)
class EnsembleOptions:
    """A mean over views of the image.

    Attributes:
        views: In the language of `lipcompile.ensembles.views`: "flip", "flip+shift:1".
        mean: Of the "scores" as the model gives them; of the "logits" in front of a Softmax
            that ends it (the same where none does); or of the "probabilities", of which the
            logarithm is given where the model gives no probabilities.
        by: "batch" runs the model once on all views, "branches" once for each; None takes the
            first that the model allows.
        image_input: The input that takes the image; None finds it by its shape.
        layout: "NCHW" or "NHWC"; None tells it by the shape.
        scores: The output with the class scores; None finds it by its shape.
    """

    views: str
    mean: Mean = "scores"
    by: Way | None = None
    image_input: str | None = None
    layout: str | None = None
    scores: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.views, str):
            raise OptionError(
                f"views of an ensemble are a {type(self.views).__name__}: write a text like "
                "'flip+shift:1'"
            )
        parse_views(self.views)
        _check("mean", self.mean, get_args(Mean))
        _check("way", self.by, (None, *get_args(Way)))
        _check("layout", self.layout, (None, "NCHW", "NHWC"))


def _check(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        listed = ", ".join(str(one) for one in known if one is not None)
        raise OptionError(f"{name} '{value}' of an ensemble is unknown: use {listed}")
