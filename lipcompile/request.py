"""What a user asked `harden` for, checked and complete."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lipcompile.errors import OptionError
from lipcompile.forged import ForgedFunction, Target, check_target, make_form
from lipcompile.layer_cr import LayerCr, read_cr_file
from lipcompile.text import count, percent, power_of_two
from lipcompile.thresholds import parse_cr
from lipcompile.zeroing import WeightOptions

Variant = Literal["forged", "weight"]
CrByLayer = Mapping[str, float | str] | str | os.PathLike[str] | None


@dataclass(frozen=True, slots=True)
class Request:
    """A variant, and what belongs to it.

    Attributes:
        c_r: Relative thresholds.
        form: The forged function; None for variant "weight".
        target: What encodings are chosen for.
        weight: What variant "weight" does; None for variant "forged".
    """

    c_r: LayerCr
    form: ForgedFunction | None
    target: Target
    weight: WeightOptions | None

    @property
    def variant(self) -> Variant:
        return "forged" if self.weight is None else "weight"

    def to_json(self) -> dict[str, Any]:
        form, weight = self.form, self.weight
        return {
            "variant": self.variant,
            "form": {"name": form.name, **form.parameters()} if form else None,
            "c_r": self.c_r.default,
            "c_r_by_layer": dict(self.c_r.patterns),
            "target": self.target,
            "zero_rate": weight.zero_rate if weight else None,
            "compact": weight.compact if weight else False,
        }

    def __str__(self) -> str:
        line = f"{self._what()}, c_r = {power_of_two(self.c_r.default)}"
        if self.c_r.patterns:
            line += f" ({count(self.c_r.patterns, 'pattern')} with one of their own)"
        return line if self.target == "portable" else f"{line}, target {self.target}"

    def _what(self) -> str:
        if self.weight is not None:
            return f"variant weight, zero rate {percent(self.weight.zero_rate)}"
        assert self.form is not None
        parameters = ", ".join(f"{k} = {v:g}" for k, v in self.form.parameters().items())
        return f"form {self.form.name}" + (f" ({parameters})" if parameters else "")


def make_request(
    cr: float | str,
    cr_by_layer: CrByLayer,
    variant: str,
    form: ForgedFunction | str | None,
    target: str,
    zero_rate: float | None,
    compact: bool,
) -> Request:
    """Checks what was asked for; see `lipcompile.harden` for the arguments.

    Raises:
        OptionError: An illegal value, or one that does not belong to the variant.
    """
    if isinstance(cr_by_layer, (str, os.PathLike)):
        cr_by_layer = read_cr_file(Path(cr_by_layer))
    if not isinstance(cr_by_layer, (Mapping, type(None))):
        raise OptionError(
            f"cr_by_layer is a {type(cr_by_layer).__name__}: give a mapping of layer patterns "
            "to c_r, or a TOML or JSON file of such"
        )
    patterns = {pattern: parse_cr(value) for pattern, value in (cr_by_layer or {}).items()}
    c_r, goal = LayerCr(parse_cr(cr), patterns), check_target(target)
    if variant not in get_args(Variant):
        raise OptionError(f"variant '{variant}' is unknown: use forged or weight")
    if variant == "weight":
        if form is not None or goal != "portable":
            name = "form" if form is not None else "target"
            raise OptionError(
                f"variant weight inserts no operator, so it has no {name}: leave --{name} out"
                + (", and --a and --b with it" if name == "form" else "")
            )
        rate = 1.0 if zero_rate is None else zero_rate
        return Request(c_r, None, goal, WeightOptions(rate, compact))
    if zero_rate is not None or compact:
        name = "--compact" if compact else "--zero-rate"
        raise OptionError(
            f"{name} needs zeroed columns, which variant forged has none of: add --variant "
            "weight"
        )
    form = "smooth" if form is None else form
    return Request(c_r, make_form(form) if isinstance(form, str) else form, goal, None)
