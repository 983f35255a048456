"""What a sweep tries: one setting is one way to harden a model."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lipcompile.ensembles.options import EnsembleOptions
from lipcompile.errors import OptionError
from lipcompile.forged import FORMS
from lipcompile.request import Request, make_request
from lipcompile.text import power_of_two
from lipcompile.thresholds import parse_cr

DEFAULT_CR = "2^-9:2^-5"
_VARIANTS = ("forged", "weight")
_MOST = 500  # settings; each is built and run


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to harden a model.

    Attributes:
        form: Name of the forged function, for variant "forged".
        c_r: Relative threshold; None for an ensemble alone.
        zero_rate: For variant "weight".
        ensemble: Views to average over, around the original.
        by_layer: c_r of layers by name, where it is not `c_r`.
    """

    form: str | None = None
    c_r: float | None = None
    zero_rate: float | None = None
    ensemble: EnsembleOptions | None = None
    by_layer: Mapping[str, float] = field(default_factory=dict)

    @property
    def variant(self) -> str:
        if self.c_r is None:
            return "none"
        return "forged" if self.form is not None else "weight"

    @property
    def name(self) -> str:
        """Short and unique in a sweep: "smooth 2^-7", "weight 2^-7", "ensemble flip"."""
        if self.ensemble is not None:
            kind = [self.ensemble.mean if self.ensemble.mean != "scores" else None]
            return " ".join(["ensemble", self.ensemble.views, *filter(None, kind)])
        assert self.c_r is not None
        where = " per layer" if self.by_layer else f" {ratio(self.c_r)}"
        return (self.form or "weight") + where

    @property
    def patterns(self) -> dict[str, float]:
        """`by_layer` as patterns that match one layer each."""
        return {f"^{re.escape(name)}$": c_r for name, c_r in self.by_layer.items()}

    def request(self) -> Request:
        """The same as `harden` takes it."""
        variant = self.variant
        return make_request(
            self.c_r,
            self.patterns or None,
            variant,
            self.form,
            zero_rate=self.zero_rate,
            ensemble=self.ensemble,
        )

    def flags(self, cr_file: str | None = None) -> str:
        """Flags of `lipcompile harden`, without those for data.

        Args:
            cr_file: Where `by_layer` was written, if it was.
        """
        if self.ensemble is not None:
            return _ensemble_flags(self.ensemble)
        assert self.c_r is not None
        words = [f"--form {self.form}" if self.form is not None else "--variant weight"]
        words.append(f"--cr {ratio(self.c_r)}")
        if self.zero_rate not in (None, 1.0):
            words.append(f"--zero-rate {self.zero_rate!r}")
        if self.by_layer:
            words.append(f"--cr-file {shlex.quote(cr_file or 'CR.toml')}")
        return " ".join(words)

    def to_json(self) -> dict[str, Any]:
        said = self.request().to_json()
        kept = ("variant", "form", "c_r", "c_r_by_layer", "zero_rate")
        return {"name": self.name, **{k: said[k] for k in kept}, "ensemble": self._views}

    @property
    def _views(self) -> str | None:
        return self.ensemble.views if self.ensemble is not None else None


def ratio(c_r: float) -> str:
    """ "2^-7", or the number, which reads back as itself."""
    power, is_power, _ = power_of_two(c_r).partition(" = ")
    return power if is_power else repr(c_r)


def _ensemble_flags(ensemble: EnsembleOptions) -> str:
    words = [f"--ensemble {shlex.quote(ensemble.views)}"]
    if ensemble.mean != "scores":
        words.append(f"--ensemble-mean {ensemble.mean}")
    given = {
        "ensemble-by": ensemble.by,
        "image-input": ensemble.image_input,
        "layout": ensemble.layout,
        "scores": ensemble.scores,
    }
    words += [f"--{flag} {shlex.quote(x)}" for flag, x in given.items() if x is not None]
    return " ".join(words)


def make_settings(
    cr: str | float | Iterable[str | float] = DEFAULT_CR,
    forms: Sequence[str] = tuple(FORMS),
    variants: Sequence[str] = _VARIANTS,
    zero_rate: float = 1.0,
    ensembles: Sequence[str | EnsembleOptions] = (),
) -> tuple[Setting, ...]:
    """Every form and variant at every c_r, from the smallest on, and every ensemble alone.

    Args:
        cr: As `parse_crs` reads it.
        forms: Names of forms, for variant "forged".
        variants: "forged", "weight", or both.
        zero_rate: For variant "weight".
        ensembles: Views, as `harden` takes them.

    Raises:
        OptionError: A name is unknown, or nothing is left to try.
    """
    _known("form", forms, tuple(FORMS))
    _known("variant", variants, _VARIANTS)
    c_rs = parse_crs(cr)
    settings: list[Setting] = []
    if "forged" in variants:
        settings += [Setting(form, c_r) for form in dict.fromkeys(forms) for c_r in c_rs]
    if "weight" in variants:
        settings += [Setting(None, c_r, zero_rate) for c_r in c_rs]
    around = [v if isinstance(v, EnsembleOptions) else EnsembleOptions(v) for v in ensembles]
    settings += [Setting(ensemble=options) for options in dict.fromkeys(around)]
    names = [setting.name for setting in settings]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise OptionError(f"'{twice[0]}' is asked for in two ways: leave one of them out")
    if not 0 < len(settings) <= _MOST:
        raise OptionError(
            f"a sweep of {len(settings)} settings: give 1 to {_MOST} by --cr, --forms, "
            "--variants and --ensembles"
        )
    for setting in settings:
        setting.request()  # checks zero_rate
    return tuple(settings)


def parse_crs(cr: str | float | Iterable[str | float]) -> tuple[float, ...]:
    """Reads "2^-9:2^-5" (every power of two from one end to the other), "2^-8,2^-6", or both
    joined by commas; sorted, each once.

    Raises:
        OptionError: It is no such list, or a c_r is out of range.
    """
    if isinstance(cr, (int, float)):
        cr = [cr]
    words = cr.split(",") if isinstance(cr, str) else list(cr)
    found: set[float] = set()
    for word in words:
        low, colon, high = str(word).partition(":")
        found |= set(_powers(low, high)) if colon else {parse_cr(word)}
    return tuple(sorted(found))


def _powers(low: str, high: str) -> list[float]:
    ends = sorted(parse_cr(end) for end in (low, high))
    first, last = (math.log2(end) for end in ends)
    if not (first.is_integer() and last.is_integer()):
        raise OptionError(
            f"--cr '{low}:{high}' is no range: its ends are powers of two, as in 2^-9:2^-5; "
            "list other values with commas"
        )
    return [2.0**exponent for exponent in range(int(first), int(last) + 1)]


def _known(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise OptionError(f"{what} '{name}' is unknown: use {', '.join(known)}")
