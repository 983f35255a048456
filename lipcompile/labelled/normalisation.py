"""How pixels in [0, 1] become a model's input."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from lipcompile.calibration.preprocess.transform import Preprocess

_LEVELS = np.arange(256).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What is left of a `Preprocess` once an image has its size and lies in [0, 1].

    input = cast(reshape(layout((swap(pixels * scale) - mean) / std))), in float32 up to the
    cast. On pixels that `pixel_levels` made it gives the very bits of the `Preprocess` that it
    came from where rescale is a power of two, or 1/255 times one; else pixels * scale may
    differ from level * rescale by one unit in the last place on some of the 256 levels.

    Attributes:
        scale: Factor on pixels in [0, 1]: 1 for models that take [0, 1], 255 for 0..255.
        mean: Subtracted after scaling; one value, or one per channel in the model's order.
        std: Divides afterwards; all above 0.
        layout: "NCHW" or "NHWC": where the input has its channels.
        dtype: NumPy name of the input's float dtype.
        swaps_channels: Whether the model takes BGR; pixels are always RGB.
        shape: What each sample is reshaped to, without the batch axis: (784,) for a flat
            input; None where the input has four axes.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: str = "float32"
    swaps_channels: bool = False
    shape: tuple[int, ...] | None = None

    @classmethod
    def of(cls, transform: Preprocess, shape: tuple[int, ...] | None = None) -> Normalisation:
        """The arithmetic and layout of a transform."""
        return cls(
            scale=transform.rescale * 255,
            mean=transform.mean,
            std=transform.std,
            layout="NHWC" if transform.layout == "NHWC" else "NCHW",
            dtype=transform.dtype,
            swaps_channels=transform.color == "BGR",
            shape=shape,
        )

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """The model's input, batch axis first, for float32 [N, C, H, W] in [0, 1]."""
        values = np.asarray(pixels, np.float32) * np.float32(self.scale)
        if self.swaps_channels:
            values = values[:, ::-1]
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.std))
        values = (values - mean) / std
        if self.layout == "NHWC":
            values = values.transpose(0, 2, 3, 1)
        if self.shape is not None:
            values = values.reshape(len(values), *self.shape)
        return np.ascontiguousarray(values, dtype=self.dtype)

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest value that pixels in [0, 1] can become."""
        channels = np.ones(max(len(self.mean), len(self.std)))
        black = -np.array(self.mean) / self.std * channels
        white = (self.scale - np.array(self.mean)) / self.std * channels
        return float(black.min()), float(white.max())

    def to_json(self) -> dict[str, Any]:
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }


def pixel_levels(transform: Preprocess) -> np.ndarray:
    """The pixel in [0, 1] of each of the 256 levels of an 8-bit image, float32 [256].

    Level / 255, moved by up to one unit in the last place so that times `scale` it gives the
    bits of level * rescale wherever such a number exists: float32 has no 1/255.
    """
    wanted = _LEVELS * np.float32(transform.rescale)
    scale = np.float32(Normalisation.of(transform).scale)
    pixels = _LEVELS / np.float32(255)
    for moved in (np.nextafter(pixels, np.float32(0)), np.nextafter(pixels, np.float32(1))):
        closer = np.abs(moved * scale - wanted) < np.abs(pixels * scale - wanted)
        pixels = np.where(closer, moved, pixels)
    return pixels
