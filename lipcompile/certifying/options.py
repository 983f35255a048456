"""What a user asks of `certify`."""

from __future__ import annotations

import math
from typing import Literal, get_args

from lipcompile.errors import OptionError
from lipcompile.text import parse_ratio

Method = Literal["lipschitz", "smoothing"]


def check_method(method: str, norm: str) -> None:
    """Raises OptionError for what does not exist."""
    if method not in get_args(Method):
        raise OptionError(f"method '{method}' is unknown: use {' or '.join(get_args(Method))}")
    if norm != "l2":
        raise OptionError(
            f"norm '{norm}' is not certified: both methods are about l2; a perturbation of "
            "linf size e has an l2 size of at most e * sqrt(number of pixel values)"
        )


def parse_radius(eps: float | str | None) -> float | None:
    """An l2 radius in pixel units: 0.5, or "36/255".

    Raises:
        OptionError: It is no number above 0.
    """
    if eps is None:
        return None
    try:
        value = parse_ratio(eps) if isinstance(eps, str) else float(eps)
    except (ValueError, TypeError) as error:
        raise OptionError(
            f"eps '{eps}' is no number: give an l2 radius in pixel units such as 0.5 or 36/255"
        ) from error
    if not (math.isfinite(value) and value > 0):
        raise OptionError(f"eps = {value:g} is out of range: it must be above 0")
    return value
