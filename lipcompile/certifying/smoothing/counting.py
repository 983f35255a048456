"""A deployed model that counts its answers to noisy copies of one image.

Noise, model, argmax and counting run in one session (`graph.py`), from which K integers come.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from lipcompile.certifying.smoothing.graph import (
    COUNTED,
    COUNTS,
    IMAGE,
    NOISE,
    SIGMA,
    wide_dtype,
)
from lipcompile.errors import OutOfMemory
from lipcompile.labelled.normalisation import Normalisation
from lipcompile.runtime import Session


@dataclass(slots=True)
class CountingModel:
    """A session that counts.

    Attributes:
        session: Of the graph of `graph.py`.
        normalisation: How pixels become the model's input.
        shape: Of the input without its batch axis.
        output: Name of the scores.
        classes: K.
        rows: Noisy images per run; halved when memory runs out.
        is_fixed: Whether the model runs on no other number of rows.
        notes: What a reader of the result has to know.
    """

    session: Session
    normalisation: Normalisation
    shape: tuple[int, ...]
    output: str
    classes: int
    rows: int
    is_fixed: bool = False
    notes: list[str] = field(default_factory=list)

    def count(self, image: np.ndarray, noise: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """How often each class won: int64 [K]. NaN scores count for none.

        Args:
            image: From `image_of`.
            noise: Standard normals, float32 [N, *shape].
            sigma: From `sigma_of`.

        Raises:
            OutOfMemory: Not even one row fits.
            RunFailure: The model does not run on this.
        """
        total, start = np.zeros(self.classes, np.int64), 0
        while start < len(noise):
            rows = self.rows
            try:
                feeds = self._feeds(image, noise[start : start + rows], sigma, rows)
                total += self.session.run([COUNTS], feeds)[COUNTS]
            except OutOfMemory:
                if rows == 1 or self.is_fixed:
                    raise
                self.rows = max(1, min(self.rows, rows // 2))  # another thread may have, too
            else:
                start += rows
        return total

    def scores(self, image: np.ndarray, noise: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """The scores themselves, float64 [N, K], for up to `rows` rows of noise."""
        feeds = self._feeds(image, noise, sigma, self.rows)
        found = self.session.run([self.output], feeds)[self.output]
        result: np.ndarray = np.asarray(found, np.float64).reshape(self.rows, -1)[: len(noise)]
        return result

    def image_of(self, pixels: np.ndarray) -> np.ndarray:
        """One image as `count` takes it: [1, *shape] from float32 [C, H, W]."""
        wide = replace(self.normalisation, dtype=wide_dtype(self.normalisation.dtype))
        return wide(pixels[None])

    def sigma_of(self, sigma: float, dims: tuple[int, ...]) -> np.ndarray:
        """The factor on the noise, [1, *shape], for a sigma in pixel units."""
        return input_sigma(self.normalisation, sigma, dims)

    def _feeds(
        self, image: np.ndarray, noise: np.ndarray, sigma: np.ndarray, rows: int
    ) -> dict[str, np.ndarray]:
        counted = np.zeros((rows, 1), np.float32)
        counted[: len(noise)] = 1
        if len(noise) < rows:  # rows that fill the batch up and do not count
            filled = np.zeros((rows, *noise.shape[1:]), np.float32)
            filled[: len(noise)] = noise
            noise = filled
        return {IMAGE: image, NOISE: noise, SIGMA: sigma, COUNTED: counted}


def input_sigma(
    normalisation: Normalisation, sigma: float, dims: tuple[int, ...]
) -> np.ndarray:
    """sigma * scale / std of the channel, in the layout of the model's input: [1, *shape].

    Args:
        normalisation: How pixels become the model's input.
        sigma: In pixel units.
        dims: (channels, height, width) of the pixels.
    """
    std = np.array(normalisation.std)[:, None, None]
    values = np.broadcast_to(sigma * normalisation.scale / std, dims)
    if normalisation.layout == "NHWC":
        values = values.transpose(1, 2, 0)
    if normalisation.shape is not None:
        values = values.reshape(normalisation.shape)
    return np.ascontiguousarray(values[None], wide_dtype(normalisation.dtype))
