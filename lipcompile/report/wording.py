"""Numbers in words, the same in every section."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from lipcompile.text import number, percent, power_of_two

MISSING = "-"


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and not math.isnan(value)


def share(value: float | None) -> str:
    """ "83.33 %", or a dash where nothing was measured."""
    return percent(value) if _known(value) else MISSING


def ratio(value: float | None) -> str:
    return f"{value:.3f}" if _known(value) else MISSING


def quantity(value: float | None) -> str:
    return number(value) if _known(value) else MISSING


def between(low: float | None, high: float | None) -> str:
    """ "71.48 to 91.71 %"."""
    if not _known(low) or not _known(high):
        return ""
    return f"{100 * low:.2f} to {100 * high:.2f} %"


def points(value: float) -> str:
    """A difference of shares, with its sign: "+1.25"; zero has none."""
    if not _known(value):
        return MISSING
    text = f"{100 * value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def difference(found: dict[str, Any]) -> str:
    """ "+1.20 points (95 % interval -0.30 to +2.70; n = 500, McNemar's exact p = 0.1)"."""
    return (
        f"{points(found['difference'])} points ({100 * found['confidence']:g} % interval "
        f"{points(found['low'])} to {points(found['high'])}; n = {found['n']}, McNemar's "
        f"exact p = {found['mcnemar_p']:.3g})"
    )


def radius(budget: dict[str, Any]) -> str:
    """ "linf eps = 8/255" where it is a whole number of 8-bit levels."""
    eps = float(budget["eps"])
    levels = eps * 255
    whole = budget["norm"] == "linf" and abs(levels - round(levels)) < 1e-6 < levels
    return f"{budget['norm']} eps = {f'{round(levels)}/255' if whole else number(eps)}"


def certified_within(certify: dict[str, Any]) -> str:
    """ "l2 radius 0.5" that certificates were asked for, or "l2" where none was."""
    eps = certify["eps"]
    return f"{certify['norm']} radius {quantity(eps)}" if _known(eps) else str(certify["norm"])


def certified_by(certify: dict[str, Any]) -> str:
    """ "Lipschitz bounds", or "randomized smoothing, sigma = 0.25"."""
    if certify["method"] == "lipschitz":
        return "Lipschitz bounds"
    smoothing = certify["smoothing"]
    sigma = f", sigma = {quantity(smoothing['sigma'])}" if smoothing else ""
    return f"randomized smoothing{sigma}"


def c_r(value: float | None) -> str:
    """ "2^-7", or the number where it is no power of two."""
    return power_of_two(value).partition(" = ")[0] if _known(value) else MISSING


def hardening(found: dict[str, Any]) -> str:
    """ "form smooth (a = 10, b = 1), c_r = 2^-7" of a harden or sweep setting."""
    form, zero_rate = found.get("form"), found.get("zero_rate")
    around = _around(found)
    if form:
        inner = ", ".join(f"{k} = {v:g}" for k, v in form.items() if k != "name")
        what = f"form {form['name']}" + (f" ({inner})" if inner else "")
    elif found["variant"] == "weight":
        what = f"variant weight, zero rate {share(zero_rate)}"
    else:
        return f"layers stay as they are{around}"
    if found.get("c_r") is not None:
        what += f", c_r = {c_r(found['c_r'])}"
    patterns = len(found.get("c_r_by_layer") or ())
    if patterns:
        what += f", {patterns} layer patterns with a c_r of their own"
    return what + around


def _around(found: dict[str, Any]) -> str:
    """What was done beside hardening layers, after a comma."""
    bound, head = found.get("lipschitz"), found.get("abstain")
    parts = [f"ensemble {views(found)}"] if views(found) else []
    parts += [f"product bound {number(bound['bound'])}"] if bound else []
    parts += [f"abstains beyond eps_l2 = {number(head['eps'])}"] if head else []
    return "".join(f", {part}" for part in parts)


def views(found: dict[str, Any]) -> str | None:
    """Of the ensemble, if any: `harden` writes an object, `sweep` the views alone."""
    ensemble = found.get("ensemble")
    return ensemble["views"] if isinstance(ensemble, dict) else ensemble


def of_available(images: int, available: int | None, name: str) -> str:
    """ "50 of 1000 of 'test'"; how many there are is not always known."""
    return (
        f"{images} of '{name}'"
        if available is None
        else f"{images} of {available} of '{name}'"
    )


def sentence(text: str) -> str:
    """With a capital, and a full stop at the end."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
