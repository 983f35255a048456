"""How far an adversarial example may be from its image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lipcompile.errors import OptionError
from lipcompile.text import parse_ratio

Norm = Literal["linf", "l2"]


@dataclass(frozen=True, slots=True)
class Budget:
    """All x' in [0, 1] with ||x' - x|| <= eps, in pixel units before normalisation.

    Attributes:
        eps: Radius, > 0; below 1 for linf.
        norm: "linf" or "l2", over all values of one image.
    """

    eps: float
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise OptionError(f"norm '{self.norm}' is unknown: use linf or l2")
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise OptionError(f"eps = {self.eps:g} is out of range: it must be above 0")
        if self.norm == "linf" and self.eps >= 1:
            raise OptionError(
                f"eps = {self.eps:g} allows any image at all: epsilon is in pixel units in "
                f"[0, 1], before normalisation; did you mean {self.eps:g}/255?"
            )

    def __str__(self) -> str:
        steps = self.eps * 255
        whole = math.isclose(steps, round(steps), abs_tol=1e-9) and round(steps) > 0
        whole = whole and self.norm == "linf"
        return f"{self.norm} eps = {f'{round(steps)}/255' if whole else f'{self.eps:g}'}"

    def size(self, pixels: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """||candidate - pixels|| of each image, float64 [N], computed in float64."""
        delta = candidates.astype(np.float64) - pixels.astype(np.float64)
        flat = delta.reshape(len(delta), -1)
        largest = self.norm == "linf"
        size: np.ndarray = np.linalg.norm(flat, np.inf if largest else 2, axis=1)
        return size

    def project(self, pixels: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """The candidates moved into the budget and into [0, 1].

        What holds afterwards holds exactly, in float64: `size` of the result is at most eps.

        Args:
            pixels: float32 [N, C, H, W] in [0, 1].
            candidates: The same shape; an image with NaN or Inf becomes its clean image.

        Returns:
            float32 [N, C, H, W].
        """
        broken = ~np.isfinite(candidates).reshape(len(candidates), -1).all(axis=1)
        clean = pixels.astype(np.float64)
        near = np.where(_rows(broken, candidates), clean, candidates.astype(np.float64))
        if self.norm == "linf":
            near = np.clip(near, clean - self.eps, clean + self.eps)
        else:
            # Clipping to [0, 1] afterwards moves every pixel towards the clean image.
            size = self.size(pixels, near)
            factor = np.minimum(1.0, self.eps / np.maximum(size, 1e-300))
            near = clean + (near - clean) * _rows(factor, near)
        result = np.clip(near, 0.0, 1.0).astype(np.float32)
        while (outside := self.size(pixels, result) > self.eps).any():
            # Rounding to float32 stepped over the edge: one step back towards the image.
            inward = np.nextafter(result, pixels, dtype=np.float32)
            result = np.where(_rows(outside, result), inward, result)
        return result


def _rows(values: np.ndarray, images: np.ndarray) -> np.ndarray:
    """One value per image, shaped to broadcast over its pixels."""
    return values.reshape(-1, *[1] * (images.ndim - 1))


def parse_eps(text: str | float) -> float:
    """ "8/255", "0.031" or a number.

    Raises:
        OptionError: It is no number.
    """
    if isinstance(text, (int, float)):
        return float(text)
    try:
        return parse_ratio(text)
    except ValueError as error:
        raise OptionError(
            f"eps '{text}' is no number: write it like 8/255 or 0.031"
        ) from error
