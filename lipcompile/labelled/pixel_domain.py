"""Which pixels a bound is about: their size, and how they become a model's input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lipcompile.calibration.options import ScanOptions
from lipcompile.errors import DataError, OptionError
from lipcompile.labelled.image_input import check_input, image_input, resolve_transform
from lipcompile.labelled.normalisation import Normalisation
from lipcompile.model_io import LoadedModel

if TYPE_CHECKING:
    from lipcompile.certifying.lipschitz.bounds import LipschitzBounds

_MOST = 1 << 28  # values of an image
_ROWS = 16  # of random pixels, where the batch is not fixed


@dataclass(frozen=True, slots=True)
class PixelDomain:
    """Images in [0, 1], as a model takes them.

    Attributes:
        normalisation: How pixels become the input.
        dims: (channels, height, width) of an image.
    """

    normalisation: Normalisation
    dims: tuple[int, int, int]

    def random_feeds(self, model: LoadedModel) -> dict[str, np.ndarray]:
        """Uniformly random pixels (seed 0), as the model takes them."""
        spec = model.inputs[0]
        rows = spec.fixed_batch or _ROWS
        pixels = np.random.default_rng(0).random((rows, *self.dims), np.float32)
        return {spec.name: self.normalisation(pixels)}

    def bounds(self, model: LoadedModel, scores: str) -> LipschitzBounds:
        """Upper bounds of the model's logits as functions of these pixels, l2.

        Raises:
            ModelError: A layer has no finite bound.
        """
        from lipcompile.certifying.lipschitz.bounds import lipschitz_bounds

        return lipschitz_bounds(model, self.normalisation, self.dims, scores)

    def to_json(self) -> dict[str, Any]:
        return {"normalisation": self.normalisation.to_json(), "dims": list(self.dims)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> PixelDomain:
        """The value that `to_json` wrote, among other keys.

        Raises:
            LookupError, TypeError, ValueError: It lacks a value, or has an illegal one.
        """
        rule: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in record["normalisation"].items()
        }
        channels, height, width = map(int, record["dims"])
        found = cls(Normalisation(**rule), (channels, height, width))
        found._check()
        return found

    def _check(self) -> None:
        """Refuses what no flags give, but a record may say.

        Raises:
            TypeError, ValueError: A value is illegal.
        """
        rule = self.normalisation
        numbers = (rule.scale, *rule.std)
        if not all(0 < x < math.inf for x in numbers) or not all(
            map(math.isfinite, rule.mean)
        ):
            raise ValueError(f"scale, mean and std are {rule.scale}, {rule.mean}, {rule.std}")
        if rule.layout not in ("NCHW", "NHWC") or rule.dtype not in ("float32", "float64"):
            raise ValueError(f"layout is {rule.layout} and dtype is {rule.dtype}")
        if min(self.dims) < 1 or math.prod(self.dims) > _MOST:
            raise ValueError(f"images of {self.dims} values are none")

    def __str__(self) -> str:
        channels, height, width = self.dims
        rule = self.normalisation
        how = [f"* {rule.scale:g}"] if rule.scale != 1 else []
        if any(rule.mean) or any(s != 1 for s in rule.std):
            how.append(f"mean {_row(rule.mean)}, std {_row(rule.std)}")
        return ", ".join([f"{channels}x{height}x{width} pixels in [0, 1]", *how])


def _row(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def find_pixel_domain(model: LoadedModel, scan: ScanOptions, flag: str) -> PixelDomain:
    """The domain that the model's input and the image flags tell.

    Args:
        model: A classifier with one input.
        scan: Whose `preprocess` and `image_flags` tell how pixels become inputs.
        flag: What needs it, for messages.

    Raises:
        DataError: The input takes no images, or not of one size.
        OptionError: A flag is not legal, or a size is missing.
    """
    try:
        spec = check_input(model.inputs)
        flags = scan.image_flags
        target = image_input(spec, flags.get("layout"))
        transform = resolve_transform(target, scan.preprocess, flags)
    except DataError as error:
        raise DataError(f"{flag} is a bound per pixel of an image: {error}") from error
    size = transform.output_size
    if size is None:
        raise OptionError(
            f"{flag} needs the size of the images, and the input '{spec}' leaves it open (a "
            "bound holds for one size): pass --input-size"
        )
    channels = 1 if transform.color == "L" else 3
    return PixelDomain(Normalisation.of(transform, target.shape), (channels, *size))
