"""An ensemble of one model: which views of which input, and the mean of which output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from lipcompile.ensembles.classifier import find_scores
from lipcompile.ensembles.image_input import ImageInput, find_image_input
from lipcompile.ensembles.one_batch import batch_obstacle
from lipcompile.ensembles.options import EnsembleOptions, Mean, Way
from lipcompile.ensembles.views import View, parse_views
from lipcompile.errors import ModelError, OptionError
from lipcompile.model_io import LoadedModel
from lipcompile.scores import final_softmax
from lipcompile.signature import TensorSpec


@dataclass(frozen=True, slots=True)
class Ensemble:
    """What is put around a model.

    Attributes:
        name: The views in the user's language.
        views: The same; the first is the image itself.
        image: The input that is viewed.
        scores: The output that becomes a mean.
        mean: As in `EnsembleOptions`.
        at: Name of the tensor that the mean is taken of: the output itself, or the logits in
            front of its Softmax.
        dtype: NumPy name of its element type.
        ends_in: "Softmax" or "LogSoftmax", where the mean is taken in front of it.
        takes_logarithm: The mean is one of probabilities, and the model gives none: its
            scores pass a Softmax each, and the logarithm of the mean is given.
        way: "batch" runs the model once on all views, "branches" once for each.
    """

    name: str
    views: tuple[View, ...]
    image: ImageInput
    scores: TensorSpec
    mean: Mean
    at: str
    dtype: str
    ends_in: str | None
    takes_logarithm: bool
    way: Way

    @property
    def least_probability(self) -> float:
        """Below it no logarithm is taken: the least normal number of the type."""
        narrow = self.dtype == "float16"
        return float(np.finfo(np.float16 if narrow else np.float32).tiny)

    def to_json(self) -> dict[str, Any]:
        """What the provenance holds."""
        return {
            "views": self.name,
            "mean": self.mean,
            "way": self.way,
            "input": self.image.spec.name,
            "layout": self.image.layout,
            "scores": self.scores.name,
            "at": self.at,
        }

    def __str__(self) -> str:
        runs = (
            "one run over all of them"
            if self.way == "batch"
            else f"{len(self.views)} runs that share the weights"
        )
        return f"mean of {self.mean} over {len(self.views)} views ({self.name}), {runs}"


def plan_ensembles(model: LoadedModel, options: EnsembleOptions) -> tuple[Ensemble, ...]:
    """The ensembles that the model's signature allows, the cheapest first.

    Args:
        model: The model without an ensemble.
        options: What is asked for.

    Raises:
        ModelError: The model is no image classifier, or does not allow the way asked for.
        OptionError: The images are too small for a view.
        DataError: The layout cannot be decided.
    """
    if model.opset < 7:
        raise ModelError(
            f"'{model.name}' imports no version of ONNX's own operators, of which views are "
            "made: export it with one"
        )
    image = find_image_input(model, options.image_input, options.layout)
    scores = find_scores(model, options.scores)
    name = "".join(options.views.lower().split())
    views = parse_views(name)
    if options.mean != "scores" and not _is_row(scores):
        raise ModelError(
            f"output '{scores}' is not one row of scores per image, which a mean of "
            f"{options.mean} needs: use --ensemble-mean scores"
        )
    _check_views(image, views, model)
    ending = final_softmax(model.graph_ir, scores.name)
    kind = None if ending is None else ending.op_type
    inside = options.mean == "logits" and ending is not None
    at, dtype = scores.name, str(scores.dtype)
    if ending is not None and inside:
        at, dtype = _logits(model, ending, scores)
    return tuple(
        Ensemble(
            name=name,
            views=views,
            image=image,
            scores=scores,
            mean=options.mean,
            at=at,
            dtype=dtype,
            ends_in=kind if inside else None,
            takes_logarithm=options.mean == "probabilities" and kind != "Softmax",
            way=way,
        )
        for way in _ways(model, image, options.by)
    )


def _is_row(scores: TensorSpec) -> bool:
    shape = scores.shape
    return shape is None or (len(shape) >= 2 and all(n == 1 for n in shape[2:]))


def _logits(model: LoadedModel, ending: ir.Node, scores: TensorSpec) -> tuple[str, str]:
    """Name and element type of what a final Softmax reads."""
    value = ending.inputs[0] if ending.inputs else None
    if value is None:
        raise ModelError(f"the final {ending.op_type} of '{model.name}' reads nothing")
    if value.dtype is not None:
        return value.name or "", value.dtype.numpy().name
    node = next(v for v in model.graph_ir.graph.outputs if v.name == scores.name).producer()
    while node is not None and node is not ending:
        if node.op_type == "Cast":
            raise ModelError(
                f"'{model.name}' casts its probabilities and does not say of which type its "
                "logits are: use --ensemble-mean scores, or run ONNX's shape inference on it"
            )
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return value.name or "", str(scores.dtype)


def again(ensemble: Ensemble) -> tuple[Ensemble, ...]:
    """What to try around a model that had `ensemble`, once what is inside was hardened: the
    same, and where one batch does not do any more, branches."""
    if ensemble.way == "branches":
        return (ensemble,)
    return ensemble, replace(ensemble, way="branches")


def ensemble_of(model: LoadedModel, record: Mapping[str, Any]) -> Ensemble:
    """The ensemble that a provenance tells of, for the model without it.

    Raises:
        InputError: It does not fit the model, or holds an illegal value.
        LookupError, TypeError: It lacks a value.
    """
    options = EnsembleOptions(
        views=str(record["views"]),
        mean=record["mean"],
        by=record["way"],
        image_input=record["input"],
        layout=record["layout"],
        scores=record["scores"],
    )
    (ensemble,) = plan_ensembles(model, options)
    return ensemble


def _check_views(image: ImageInput, views: tuple[View, ...], model: LoadedModel) -> None:
    for view in views:
        view.check(*image.sides)
        if view.zoom != 1.0 and image.spec.dtype == "uint8":
            raise OptionError(
                f"input '{image.spec}' takes whole numbers, which a scale does not give: use "
                "flip and shift"
            )
        if view.zoom != 1.0 and None in image.sides:
            raise OptionError(
                f"input '{image.spec}' has a dynamic size, and a scale is built for one size: "
                "fix it when exporting, or use flip and shift"
            )
        if (view.down or view.right) and image.spec.dtype == "uint8" and model.opset < 11:
            raise OptionError(
                f"input '{image.spec}' takes whole numbers, which need opset 11 to shift, got "
                f"{model.opset}: convert the model with onnx.version_converter, or use flip"
            )
        if view.mirror and image.sides[1] is None and model.opset < 10:
            raise OptionError(
                f"input '{image.spec}' has a dynamic width, which needs opset 10 to mirror, "
                f"got {model.opset}: convert the model with onnx.version_converter"
            )


def _ways(model: LoadedModel, image: ImageInput, by: Way | None) -> Iterator[Way]:
    obstacle = batch_obstacle(model, image)
    if by == "batch" and obstacle is not None:
        raise ModelError(
            f"'{model.name}' {obstacle}, so its batch cannot hold all views of an image: "
            "leave --ensemble-by batch out, and the model runs once for each view"
        )
    if by != "branches" and obstacle is None:
        yield "batch"
    if by != "batch":
        yield "branches"
