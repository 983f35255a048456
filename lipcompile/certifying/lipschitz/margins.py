"""Certified radii from the logits of a deployed file and its Lipschitz bounds."""

from __future__ import annotations

import numpy as np

from lipcompile import model_io
from lipcompile.certifying.lipschitz.bounds import LipschitzBounds
from lipcompile.errors import ModelError, NonFiniteError, RunFailure
from lipcompile.labelled import LabelledImages
from lipcompile.labelled.classifier import Classifier
from lipcompile.model_io import LoadedModel
from lipcompile.runtime import RuntimeOptions, open_session
from lipcompile.scores import logits_name, score_output

_TRIED = 4  # images that are run alone and together
_SAME = 1e-3  # of the largest logit
_BATCH = 64
_SHRINK = 1 - 1e-9  # for the rounding of margin and quotient


def read_logits(
    model: LoadedModel,
    images: LabelledImages,
    runtime: RuntimeOptions,
    scores: str | None = None,
    batch: int | None = None,
) -> np.ndarray:
    """The logits that ONNX Runtime computes: float64 [N, K].

    Raises:
        ModelError: An image has other logits in a batch than alone, so that they are no
            function of one image.
        NonFiniteError: They are NaN or infinite.
    """
    name = logits_name(model.graph_ir, score_output(model, scores).name)
    content = model.path or model_io.serialize(model.proto)
    if name not in {spec.name for spec in model.outputs}:
        content = model_io.with_outputs(model.proto, [name])
    session = open_session(content, runtime, model.base_dir)
    fixed = model.inputs[0].fixed_batch
    opened = Classifier(model, session, images.normalisation, name, fixed or batch or _BATCH)
    try:
        logits = opened.scores(images.pixels)
    except RunFailure:
        if opened.batch == 1:
            raise
        opened.batch = 1  # the batch axis is declared dynamic and is not
        logits = opened.scores(images.pixels)
    if not np.isfinite(logits).all():
        raise NonFiniteError(
            f"'{model.name}' gives NaN or infinity as scores: check the preprocessing "
            "(--mean, --std, --preprocess)"
        )
    if opened.batch > 1:
        alone = [opened.scores(image[None]) for image in images.pixels[:_TRIED]]
        apart = np.abs(np.concatenate(alone) - logits[: len(alone)]).max()
        if apart > _SAME * max(float(np.abs(logits).max()), 1e-30):
            raise ModelError(
                f"'{model.name}' gives an image other scores in a batch than alone (apart by "
                f"{apart:.2g}): they depend on the other images, and nothing can be certified"
            )
    return logits


def radii_l2(logits: np.ndarray, bounds: LipschitzBounds, values: int) -> np.ndarray:
    """The radius of each image within which its class cannot change.

    With y the class of the largest logit,

        radius = min over j != y of (z_y - z_j) / L_yj,

    since z_y - z_j falls by less than L_yj * r on the open ball of radius r (arXiv 2310.00116;
    2102.08452 with L_yj = L_y + L_j).

    Args:
        logits: float64 [N, K].
        bounds: Of the same model.
        values: Pixel values per image; no radius is larger than the diameter of [0, 1]^values.

    Returns:
        float64 [N], in pixel units; 0 where two logits tie.
    """
    top = logits.argmax(axis=1)
    rows = np.arange(len(logits))
    margins = logits[rows, top][:, None] - logits
    slopes = bounds.pairwise[top]
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.where(margins > 0, margins / slopes, 0.0)
    reach[rows, top] = np.inf
    found: np.ndarray = np.minimum(reach.min(axis=1), values**0.5) * _SHRINK
    return found
