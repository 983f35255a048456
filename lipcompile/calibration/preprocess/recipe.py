"""What any preprocessing config says, in one form."""

from __future__ import annotations

from dataclasses import dataclass

from lipcompile.calibration.preprocess.pixels import Pair


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a config says; None where it says nothing.

    Attributes:
        steps: The resize and the crop exactly as the config defines them, or None where the
            sizes follow from `size`, `crop_pct` and `crop_mode` alone.
        size: Final (height, width).
        crop_pct: Share of the resized image that the crop keeps, in (0, 1].
        crop_mode: "center" or "squash".
        interpolation: As in Preprocess; likewise the fields that follow.
    """

    steps: tuple[int | Pair | None, Pair | None] | None = None
    size: Pair | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    interpolation: str | None = None
    color: str | None = None
    rescale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
