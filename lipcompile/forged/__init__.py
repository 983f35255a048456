"""Forged functions: one file per form, and the registry that names them."""

from __future__ import annotations

from lipcompile.errors import OptionError
from lipcompile.forged.base import Emitter, Encoding, EncodingContext, ForgedFunction
from lipcompile.forged.hard import Hard
from lipcompile.forged.smooth import Smooth
from lipcompile.forged.soft import Soft
from lipcompile.forged.targets import TARGETS, Target, check_target

FORMS: dict[str, type[ForgedFunction]] = {
    Smooth.name: Smooth,
    Hard.name: Hard,
    Soft.name: Soft,
}


def make_form(name: str, **parameters: float | None) -> ForgedFunction:
    """Makes the form `name`; parameters that are None keep their default.

    Raises:
        OptionError: Unknown form, a parameter that the form does not have, or an illegal
            value.
    """
    if name not in FORMS:
        raise OptionError(f"form '{name}' is unknown: use {', '.join(FORMS)}")
    given = {key: value for key, value in parameters.items() if value is not None}
    known = FORMS[name]().parameters()
    for key in given:
        if key not in known:
            has = ", ".join(known) or "no parameters"
            raise OptionError(
                f"form '{name}' has no parameter '{key}' (it has {has}): leave it out"
            )
    return FORMS[name](**given)


__all__ = [
    "FORMS",
    "TARGETS",
    "Emitter",
    "Encoding",
    "EncodingContext",
    "ForgedFunction",
    "Hard",
    "Smooth",
    "Soft",
    "Target",
    "check_target",
    "make_form",
]
