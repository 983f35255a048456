"""Which form becomes what on which target, and why: as the forms themselves decide it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lipcompile.forged import FORMS, TARGETS, Encoding, EncodingContext

_PLAIN = EncodingContext("float32", opset=17)
_CONV = replace(_PLAIN, channels=64)
_AFTER_RELU = replace(_CONV, nonnegative=True, replaceable_relu=True, shiftable=True)

# Where a site may stand, in float32 at opset 17; the first that fits a site is its row.
SITUATIONS: dict[str, EncodingContext] = {
    "Relu that only forged layers read": _AFTER_RELU,
    "never negative, in front of a convolution": replace(_CONV, nonnegative=True),
    "never negative, elsewhere": replace(_PLAIN, nonnegative=True),
    "any sign, in front of a convolution": _CONV,
    "any sign, elsewhere": _PLAIN,
}


def encoding_table() -> list[str]:
    """Markdown: one table of all forms, situations and targets, and the reasons below it."""
    lines = ["| form | where the site stands | " + " | ".join(TARGETS) + " |"]
    lines.append("|---|---|" + "---|" * len(TARGETS))
    for name, situation, encodings in _rows():
        cells = " | ".join(encoding.label for encoding in encodings)
        lines.append(f"| `{name}` | {situation} | {cells} |")
    reasons = {(e.label, e.why): None for _, _, encodings in _rows() for e in encodings}
    lines += ["", "| encoding | why |", "|---|---|"]
    return lines + [f"| {label} | {why} |" for label, why in reasons]


def _rows() -> Iterator[tuple[str, str, list[Encoding]]]:
    for name, form in FORMS.items():
        for situation, context in SITUATIONS.items():
            yield (
                name,
                situation,
                [form().encoding(replace(context, target=target)) for target in TARGETS],
            )
