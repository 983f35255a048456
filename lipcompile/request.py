"""What a user asked `harden` for, checked and complete."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lipcompile.abstaining.options import AbstainOptions
from lipcompile.ensembles.options import EnsembleOptions
from lipcompile.errors import OptionError
from lipcompile.forged import ForgedFunction, Target, check_target, make_form
from lipcompile.layer_cr import LayerCr, read_cr_file
from lipcompile.rescaling.options import LipschitzOptions
from lipcompile.text import count, percent, power_of_two
from lipcompile.thresholds import parse_cr
from lipcompile.zeroing import WeightOptions

Variant = Literal["forged", "weight", "none"]
DEFAULT_CR = 2**-7
CrByLayer = Mapping[str, float | str] | str | os.PathLike[str] | None


@dataclass(frozen=True, slots=True)
class Request:
    """A variant, and what belongs to it.

    Attributes:
        c_r: Relative thresholds; variant "none" has no use for them.
        form: The forged function, for variant "forged" alone.
        target: What encodings are chosen for.
        weight: What variant "weight" does, for it alone.
        ensemble: What is put around the model, if anything.
        lipschitz: Which product bound it gets by rescaling, if any.
        abstain: Which answers it certifies itself, if any.
    """

    c_r: LayerCr
    form: ForgedFunction | None
    target: Target
    weight: WeightOptions | None
    ensemble: EnsembleOptions | None = None
    lipschitz: LipschitzOptions | None = None
    abstain: AbstainOptions | None = None

    @property
    def variant(self) -> Variant:
        if self.weight is not None:
            return "weight"
        return "none" if self.form is None else "forged"

    def to_json(self) -> dict[str, Any]:
        form, weight = self.form, self.weight
        return {
            "variant": self.variant,
            "form": {"name": form.name, **form.parameters()} if form else None,
            "c_r": None if self.variant == "none" else self.c_r.default,
            "c_r_by_layer": dict(self.c_r.patterns),
            "target": self.target,
            "zero_rate": weight.zero_rate if weight else None,
            "compact": weight.compact if weight else False,
        }

    def __str__(self) -> str:
        if self.variant == "none":
            return "layers stay as they are"
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
    cr: float | str | None = None,
    cr_by_layer: CrByLayer = None,
    variant: str | None = None,
    form: ForgedFunction | str | None = None,
    target: str | None = None,
    zero_rate: float | None = None,
    compact: bool = False,
    ensemble: EnsembleOptions | str | None = None,
    lipschitz: LipschitzOptions | float | str | None = None,
    abstain: AbstainOptions | float | str | None = None,
) -> Request:
    """Checks what was asked for; see `lipcompile.harden` for the arguments.

    Raises:
        OptionError: An illegal value, or one that does not belong to the variant.
    """
    given = {
        "cr": cr,
        "cr-file": cr_by_layer,
        "form": form,
        "target": target,
        "zero-rate": zero_rate,
        "compact": compact or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    beside = _beside(ensemble, lipschitz, abstain)
    if variant is None:
        variant = "none" if any(beside) and not given else "forged"
    c_r, goal = _ratios(cr, cr_by_layer), check_target(target or "portable")
    if variant == "none":
        if not any(beside):
            raise OptionError(
                "variant none hardens nothing: add --ensemble, --lipschitz or --abstain, or "
                "leave it out"
            )
        _refuse(given, tuple(given), "variant none hardens no layer, so it has no")
        return Request(c_r, None, goal, None, *beside)
    if variant == "weight":
        if target == "portable":
            del given["target"]
        _refuse(given, ("form", "target"), "variant weight inserts no operator, so it has no")
        rate = 1.0 if zero_rate is None else zero_rate
        return Request(c_r, None, goal, WeightOptions(rate, compact), *beside)
    if variant != "forged":
        raise OptionError(
            f"variant '{variant}' is unknown: use {', '.join(get_args(Variant))}"
        )
    for name in ("compact", "zero-rate"):
        if name in given:
            raise OptionError(
                f"--{name} needs zeroed columns, which variant forged has none of: add "
                "--variant weight"
            )
    form = "smooth" if form is None else form
    chosen = make_form(form) if isinstance(form, str) else form
    _check_bounded(chosen, beside)
    return Request(c_r, chosen, goal, None, *beside)


_Beside = tuple[EnsembleOptions | None, LipschitzOptions | None, AbstainOptions | None]


def _beside(
    ensemble: EnsembleOptions | str | None,
    lipschitz: LipschitzOptions | float | str | None,
    abstain: AbstainOptions | float | str | None,
) -> _Beside:
    """What is done beside hardening layers; an ensemble goes with nothing else of it."""
    around = (
        ensemble
        if ensemble is None or isinstance(ensemble, EnsembleOptions)
        else EnsembleOptions(ensemble)
    )
    bound = None if lipschitz is None else LipschitzOptions.of(lipschitz)
    head = None if abstain is None else AbstainOptions.of(abstain)
    for name, given in (("lipschitz", bound), ("abstain", head)):
        if around is not None and given is not None:
            raise OptionError(
                f"--{name} bounds the model itself, and not the mean over the views of an "
                "--ensemble: leave one of the two out"
            )
    if bound is not None and head is not None and bound.scores != head.scores:
        raise OptionError(
            f"lipschitz is about the output '{bound.scores}' and abstain about "
            f"'{head.scores}': name the same scores for both"
        )
    return around, bound, head


def _check_bounded(form: ForgedFunction, beside: _Beside) -> None:
    _, bound, head = beside
    if bound is not None:
        raise OptionError(
            "--lipschitz scales activations, and the thresholds of forged functions would not "
            "fit any more: use it alone, or with --variant weight"
        )
    if head is not None and not math.isfinite(form.slope):
        raise OptionError(
            f"--abstain needs a bound on how far scores can move, and form {form.name} jumps: "
            "use --form smooth or soft, or leave --abstain out"
        )


def _ratios(cr: float | str | None, cr_by_layer: CrByLayer) -> LayerCr:
    if isinstance(cr_by_layer, (str, os.PathLike)):
        cr_by_layer = read_cr_file(Path(cr_by_layer))
    if not isinstance(cr_by_layer, (Mapping, type(None))):
        raise OptionError(
            f"cr_by_layer is a {type(cr_by_layer).__name__}: give a mapping of layer patterns "
            "to c_r, or a TOML or JSON file of such"
        )
    patterns = {pattern: parse_cr(value) for pattern, value in (cr_by_layer or {}).items()}
    return LayerCr(parse_cr(DEFAULT_CR if cr is None else cr), patterns)


def _refuse(given: Mapping[str, object], names: tuple[str, ...], fact: str) -> None:
    for name in names:
        if name in given:
            more = ", and --a and --b with it" if name == "form" else ""
            raise OptionError(f"{fact} {name}: leave --{name} out{more}")
