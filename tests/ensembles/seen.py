"""What an ensemble around a small classifier should give.

The views are written here once more, by `np.pad` and `np.interp`, and not taken from the
package; the mean is taken in float64 of what the classifier gives for each view alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tests.ensembles.models import Network, in_runtime

Seen = Callable[[np.ndarray], np.ndarray]
FOUR_WAYS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def same(images: np.ndarray) -> np.ndarray:
    return images


def flipped(images: np.ndarray) -> np.ndarray:
    return images[..., ::-1]


def moved(down: int, right: int) -> Seen:
    """The content moves; what enters is reflected at the border."""

    def view(images: np.ndarray) -> np.ndarray:
        height, width = images.shape[-2:]
        margin = max(abs(down), abs(right))
        around = ((0, 0), (0, 0), (margin, margin), (margin, margin))
        padded = np.pad(images, around, mode="reflect")
        top, left = margin - down, margin - right
        return padded[..., top : top + height, left : left + width]

    return view


def zoomed(factor: float) -> Seen:
    """Scaled between pixel centres about the image's own, then cropped, or reflected."""

    def line(row: np.ndarray) -> np.ndarray:
        side = len(row)
        margin = round(side * (factor - 1) / 2)
        size = side + 2 * margin
        centres = (np.arange(size) + 0.5) * side / size - 0.5
        scaled = np.interp(centres, np.arange(side), row)
        if margin >= 0:
            return scaled[margin : margin + side]
        return np.pad(scaled, -margin, mode="reflect")

    def view(images: np.ndarray) -> np.ndarray:
        return np.apply_along_axis(line, 2, np.apply_along_axis(line, 3, images))

    return view


def flipped_after(view: Seen) -> Seen:
    return lambda images: flipped(view(images))


_BY_ONE = [moved(*step) for step in FOUR_WAYS]
VIEWS: dict[str, list[Seen]] = {
    "flip": [same, flipped],
    "shift:2": [same, *(moved(2 * down, 2 * right) for down, right in FOUR_WAYS)],
    "scale:0.9": [same, zoomed(0.9)],
    "flip*shift:1": [
        *(same, flipped, *_BY_ONE),
        *(flipped_after(view) for view in _BY_ONE),
    ],
    "flip+scale:1.2": [same, flipped, zoomed(1.2)],
}


def views_of(network: Network, batch: np.ndarray, name: str) -> list[np.ndarray]:
    """Every view of the batch, as the model takes it."""
    images = network.unfolded(batch).astype(np.float64)
    return [network.folded(view(images)).astype(batch.dtype) for view in VIEWS[name]]


def expected(network: Network, batch: np.ndarray, name: str, mean: str) -> np.ndarray:
    """The scores of an ensemble around `network`, float64 [N, K]."""
    bare = replace(network, ending="").proto()
    logits = [in_runtime(bare, view) for view in views_of(network, batch, name)]
    rows = np.stack([one.astype(np.float64) for one in logits])
    ending = _ENDINGS[network.ending]
    if mean == "logits":
        return ending(rows.mean(axis=0))
    if mean == "scores":
        return ending(rows).mean(axis=0)
    probabilities = softmax(rows).mean(axis=0)
    return probabilities if network.ending == "Softmax" else np.log(probabilities)


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    return np.log(softmax(scores))


_ENDINGS: dict[str, Seen] = {"": same, "Softmax": softmax, "LogSoftmax": log_softmax}
