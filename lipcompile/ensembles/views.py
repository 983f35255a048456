"""The views of an image that an ensemble averages over: a small language, and NumPy.

    flip        the mirror image
    shift:K     the image moved by K pixels: up, down, left and right
    scale:S     the image zoomed by S about its centre
    A+B         the views of A and those of B
    A*B         the views of A, each joined with each of B: shifts add up, two mirrors cancel

The image itself is always one of them: "flip" has 2 views, "shift:1" has 5, "flip+shift:1"
has 6 and "flip*shift:1" has 10. What leaves the frame is lost, what enters it is the image
reflected at its border, without repeating the border itself.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np

from lipcompile.errors import OptionError

_MOST = 64  # views: each costs a run of the model
_SHIFT, _SCALE = 1, 0.9
_FACTOR = re.compile(r"(flip|shift|scale)(?::([^:]*))?")
_ADVICE = "write flip, shift:K and scale:S, joined by + and *, for example flip+shift:1"


@dataclass(frozen=True, slots=True)
class View:
    """One view of an image: zoomed, then moved, then mirrored.

    Attributes:
        zoom: Factor about the centre.
        down: Pixels that the content moves down; negative moves it up.
        right: Pixels that it moves right; negative moves it left.
        mirror: Left and right change places.
    """

    zoom: float = 1.0
    down: int = 0
    right: int = 0
    mirror: bool = False

    def __call__(self, images: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
        """The definition.

        Args:
            images: Any shape and dtype.
            axes: Which hold height and width.

        Returns:
            The view of each, in the shape and dtype of `images`.

        Raises:
            OptionError: The images are too small for it.
        """
        height, width = (images.shape[axis] for axis in axes)
        self.check(height, width)
        moved = images
        for axis, shift in zip(axes, (self.down, self.right), strict=True):
            if self.zoom != 1.0:
                matrix = zoom_matrix(images.shape[axis], self.zoom)
                zoomed = np.tensordot(moved.astype(np.float64), matrix, (axis, 1))
                moved = np.moveaxis(zoomed, -1, axis)
            places = _reflected(np.arange(moved.shape[axis]) - shift, moved.shape[axis])
            moved = np.take(moved, places, axis=axis)
        moved = np.flip(moved, axes[1]) if self.mirror else moved
        return np.ascontiguousarray(moved, dtype=images.dtype)

    def check(self, height: int | None, width: int | None) -> None:
        """The view exists for images of this size; None is a size that is not known.

        Raises:
            OptionError: It does not.
        """
        for side, name, shift in ((height, "high", self.down), (width, "wide", self.right)):
            if side is None:
                continue
            if abs(shift) >= side:
                raise OptionError(
                    f"a shift by {abs(shift)} does not fit images that are {side} pixels "
                    f"{name}: reflection at the border reaches {side - 1} at most"
                )
            if self.zoom != 1.0:
                zoomed_size(side, self.zoom)


def zoomed_size(side: int, zoom: float) -> int:
    """To how many pixels `side` is scaled: as many more or less on both of its ends.

    Raises:
        OptionError: It is no change, or leaves less than reflection can fill.
    """
    margin = round(side * (zoom - 1) / 2)
    if margin == 0:
        raise OptionError(
            f"scale:{zoom:g} moves the border of {side} pixels by no more than half a pixel, "
            "so that nothing changes: take a factor further from 1"
        )
    if side + 2 * margin <= -margin:
        raise OptionError(
            f"scale:{zoom:g} leaves {max(side + 2 * margin, 0)} of {side} pixels, too few to "
            "fill the frame by reflection: take a factor nearer to 1"
        )
    return side + 2 * margin


def zoom_matrix(side: int, zoom: float) -> np.ndarray:
    """float64 [side, side]: each row gives one pixel of the zoomed image from the image.

    Linear interpolation between pixel centres, cropped to the frame or reflected into it.
    """
    size = zoomed_size(side, zoom)
    rows = np.arange(side)
    source = (_reflected(rows + (size - side) // 2, size) + 0.5) * side / size - 0.5
    low = np.minimum(source.astype(int), side - 2)
    matrix = np.zeros((side, side))
    matrix[rows, low] = 1 - (source - low)
    matrix[rows, low + 1] = source - low
    return matrix


def _reflected(places: np.ndarray, side: int) -> np.ndarray:
    """Indices into `side` pixels, those outside reflected at the border."""
    inside = np.abs(places)
    reflected: np.ndarray = np.where(inside < side, inside, 2 * (side - 1) - inside)
    return reflected


def parse_views(text: str) -> tuple[View, ...]:
    """The views that `text` names, the image itself first, each once.

    Raises:
        OptionError: It is not of the language, or has too many views.
    """
    found = {View(): None}
    for term in "".join(text.lower().split()).split("+"):
        views: tuple[View, ...] = (View(),)
        for factor in term.split("*"):
            pairs = itertools.product(views, _views_of(factor, text))
            views = tuple(dict.fromkeys(_joined(*pair, text) for pair in pairs))
            _check_count(len(views), text)
        found |= dict.fromkeys(views)
        _check_count(len(found), text)
    return tuple(found)


def _check_count(views: int, text: str) -> None:
    if views > _MOST:
        raise OptionError(
            f"ensemble '{text:.80}' has {views} views or more, and each costs a run of the "
            f"model: at most {_MOST} are built"
        )


def _views_of(factor: str, text: str) -> tuple[View, ...]:
    match = _FACTOR.fullmatch(factor)
    if match is None:
        raise OptionError(f"ensemble '{text}' has a part '{factor}': {_ADVICE}")
    name, argument = match.groups()
    if name == "flip":
        if argument is not None:
            raise OptionError(f"ensemble '{text}': flip takes no number: {_ADVICE}")
        return View(), View(mirror=True)
    if name == "shift":
        k = _SHIFT if argument is None else _pixels(argument, text)
        moves = ((-k, 0), (k, 0), (0, -k), (0, k))
        return View(), *(View(down=down, right=right) for down, right in moves)
    return View(), View(zoom=_SCALE if argument is None else _factor(argument, text))


def _pixels(argument: str, text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", argument) or int(argument) == 0:
        raise OptionError(
            f"ensemble '{text}': a shift is by whole pixels, 1 or more, got '{argument}': "
            f"{_ADVICE}"
        )
    return int(argument)


def _factor(argument: str, text: str) -> float:
    try:
        factor = float(argument)
    except ValueError:
        factor = 0.0
    if not 0.25 <= factor <= 4 or factor == 1:
        raise OptionError(
            f"ensemble '{text}': a scale is a factor from 0.25 to 4, and not 1, got "
            f"'{argument}': {_ADVICE}"
        )
    return factor


def _joined(one: View, other: View, text: str) -> View:
    if one.zoom != 1.0 and other.zoom != 1.0:
        raise OptionError(
            f"ensemble '{text}' joins two scales with *: write their product as one, or + "
            "for both"
        )
    return View(
        zoom=one.zoom * other.zoom,
        down=one.down + other.down,
        right=one.right + other.right,
        mirror=one.mirror != other.mirror,
    )
