"""An abstain head: whose scores it is about, and the numbers in it.

With y = argmax z and L_yj an upper bound of the slope of z_y - z_j (l2, per unit of pixels in
[0, 1]), no image within eps of this one makes class j overtake y where z_y > z_j + eps L_yj.
The head compares z_y with the k-th largest of these over j != y (arXiv 2102.08452, section 3):
then at most k - 1 classes can overtake y, which stays among the top k.

Properties: the numbers eps L_yj are rounded up, so that they are upper bounds as well. Sums
z_j + eps L_yj are rounded to nearest, and yet z_y > round(s) implies z_y > s: rounding is
monotone, and z_y is a number of the type itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lipcompile.abstaining.options import AbstainOptions, Kind
from lipcompile.errors import ModelError, OptionError
from lipcompile.labelled.pixel_domain import PixelDomain
from lipcompile.model_io import LoadedModel
from lipcompile.scores import final_softmax, logits_name, score_output
from lipcompile.signature import TensorSpec

if TYPE_CHECKING:
    from lipcompile.certifying.lipschitz.bounds import LipschitzBounds

_DTYPES = ("float32", "float64")
# Bounds are the same to about 1e-15 on other machines: to fewer bits, they are the same.
_BITS = 20
_OUTPUT = "certified"


@dataclass(frozen=True, slots=True)
class Head:
    """What the provenance says of a head.

    Attributes:
        eps: eps_l2 in pixel units.
        kind: As in `AbstainOptions`; likewise `top`.
        top: k.
        scores: Name of the output with the scores.
        classes: K, how many there are without the head.
        length: What the model declared of the number of scores: a number or a symbol.
        output: Name of the output that was added, for "bool".
        pixels: What the bounds are about.
    """

    eps: float
    kind: Kind
    top: int
    scores: str
    classes: int
    length: int | str
    output: str | None
    pixels: PixelDomain

    def to_json(self) -> dict[str, Any]:
        return {
            "eps": self.eps,
            "norm": "l2",
            "as": self.kind,
            "top": self.top,
            "scores": self.scores,
            "classes": self.classes,
            "length": self.length,
            "output": self.output,
            **self.pixels.to_json(),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Head:
        """The value that `to_json` wrote.

        Raises:
            OptionError, LookupError, TypeError, ValueError: A value is missing, or illegal.
        """
        options = AbstainOptions(float(record["eps"]), record["as"], int(record["top"]))
        length, output = record["length"], record["output"]
        return cls(
            options.eps,
            options.kind,
            options.top,
            str(record["scores"]),
            int(record["classes"]),
            length if isinstance(length, int) else str(length),
            str(output) if options.kind == "bool" else None,
            PixelDomain.from_json(record),
        )

    @property
    def options(self) -> AbstainOptions:
        """What was asked for."""
        return AbstainOptions(self.eps, self.kind, self.top, self.scores)

    def __str__(self) -> str:
        how = (
            f"class {self.classes} of '{self.scores}' means not certified"
            if self.kind == "logit"
            else f"output '{self.output}' says which answers are certified"
        )
        top = "" if self.top == 1 else f" to stay in the top {self.top}"
        return f"{how}{top} within eps_l2 = {self.eps:g} ({self.pixels})"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a head goes.

    Attributes:
        scores: The output with the scores.
        logits: Name of what it compares: the scores, or what their Softmax reads.
        dtype: NumPy name of its element type.
    """

    scores: TensorSpec
    logits: str
    dtype: str


@dataclass(frozen=True, slots=True, eq=False)
class Abstention:
    """A head for one model.

    Attributes:
        head: What it says.
        place: Where it goes.
        reach: [K, K] of `place.dtype`: at least eps L_yj; the lowest number on the diagonal.
    """

    head: Head
    place: Place
    reach: np.ndarray


def find_place(model: LoadedModel, options: AbstainOptions) -> Place:
    """Where the head goes; no bound is computed.

    Raises:
        ModelError: The model has no scores that a head can be about.
    """
    spec = score_output(model, options.scores)
    if spec.dtype not in _DTYPES:
        raise ModelError(
            f"output '{spec}' of '{model.name}' is {spec.dtype}, and abstaining needs "
            f"{' or '.join(_DTYPES)}, in which bounds hold: export the model in float32"
        )
    if spec.shape is None or len(spec.shape) != 2:
        raise ModelError(
            f"output '{spec}' of '{model.name}' is not one row of scores per image ([N, "
            "classes]), which an abstain head compares: add a Flatten when exporting"
        )
    ending = final_softmax(model.graph_ir, spec.name)
    if ending is not None and options.kind == "logit":
        raise ModelError(
            f"'{model.name}' ends in a {ending.op_type}, which rounds: a class that wins by "
            "the last bit of a logit would tie as a probability, and a tie may count as "
            "certified: use --abstain-as bool, which compares the logits, or export the "
            f"model without its {ending.op_type}"
        )
    return Place(spec, logits_name(model.graph_ir, spec.name), str(spec.dtype))


def plan_abstention(
    model: LoadedModel,
    options: AbstainOptions,
    pixels: PixelDomain,
    bounds: LipschitzBounds | None = None,
) -> Abstention:
    """The head for a model.

    Args:
        model: The model as it will be deployed, but for the head.
        options: What is asked for.
        pixels: How pixels become its input, and their size.
        bounds: Of this very model and these pixels, where they are known; None computes them.

    Raises:
        ModelError: It has no scores to compare, or no finite bound.
        OptionError: k leaves no class to compare with.
    """
    place = find_place(model, options)
    slopes = (bounds or pixels.bounds(model, place.scores.name)).pairwise
    classes = len(slopes)
    if not options.top < classes:
        raise OptionError(
            f"--abstain-top {options.top} of {classes} classes holds for any answer: give "
            "less than the number of classes"
        )
    shape = place.scores.shape
    assert shape is not None
    head = Head(
        eps=options.eps,
        kind=options.kind,
        top=options.top,
        scores=place.scores.name,
        classes=classes,
        length=shape[1],
        output=_free_output(model) if options.kind == "bool" else None,
        pixels=pixels,
    )
    return Abstention(head, place, _reach(model, options.eps, slopes, place.dtype))


def _reach(model: LoadedModel, eps: float, slopes: np.ndarray, dtype: str) -> np.ndarray:
    limits = np.finfo(dtype)
    reach = round_up(eps, slopes, dtype)
    if not np.isfinite(reach).all():
        raise ModelError(
            f"'{model.name}' may change its scores by more than {limits.max:.3g} within eps = "
            f"{eps:g}, which {dtype} does not hold: no answer can be certified"
        )
    np.fill_diagonal(reach, limits.min)
    return reach


def round_up(eps: float, slopes: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers of `dtype` that are at least eps * slopes, of 20 bits; at least the least normal
    number of the type."""
    exact = np.nextafter(np.float64(eps) * np.asarray(slopes, np.float64), np.inf)
    mantissa, exponent = np.frexp(np.maximum(exact, float(np.finfo(dtype).tiny)))
    with np.errstate(over="ignore"):
        rounded = np.ldexp(np.ceil(np.ldexp(mantissa, _BITS)), exponent - _BITS)
        result: np.ndarray = rounded.astype(dtype)
    return result


def _free_output(model: LoadedModel) -> str:
    graph = model.graph_ir.graph
    values = [*graph.inputs, *graph.initializers.values()]
    taken = {value.name for value in (*values, *(v for n in graph for v in n.outputs))}
    name, count = _OUTPUT, 1
    while name in taken:
        count += 1
        name = f"{_OUTPUT}_{count}"
    return name
