"""Which form becomes what on which target, and why: as the forms themselves decide it."""

from __future__ import annotations

from dataclasses import replace

from lipcompile.forged import FORMS, TARGETS, Encoding, EncodingContext, Target

_PLAIN = EncodingContext("float32", opset=17)
_NONNEGATIVE = replace(_PLAIN, nonnegative=True)
CHANNELS = 64  # of a site in front of a convolution

_RELU = "behind a Relu for forged layers alone"
_RELU_BIAS = f"{_RELU}, with a bias in front"
_CLIP_BIAS = "behind a Clip from 0 for forged layers alone, with a bias in front"

# Where a site may stand, in float32 at opset 17; the first that fits a site is its row.
SITUATIONS: dict[str, EncodingContext] = {
    _RELU_BIAS: replace(_NONNEGATIVE, replaceable_relu=True, shiftable=True),
    _CLIP_BIAS: replace(_NONNEGATIVE, shiftable=True),
    _RELU: replace(_NONNEGATIVE, replaceable_relu=True),
    "never negative": _NONNEGATIVE,
    "of any sign": _PLAIN,
}
# A row is left out where it says the same as the row for the wider situation.
_WIDER = {_RELU_BIAS: _RELU, _CLIP_BIAS: "never negative", _RELU: "never negative"}


def encodings(form: str, situation: str, target: Target) -> tuple[Encoding, Encoding]:
    """In front of a convolution, and elsewhere."""
    context = replace(SITUATIONS[situation], target=target)
    made = FORMS[form]()
    return made.encoding(replace(context, channels=CHANNELS)), made.encoding(context)


def encoding_table() -> list[str]:
    """Markdown: one table of all forms, situations and targets, and the reasons below it.

    A cell has two lines where it matters whether a convolution reads the site.
    """
    lines = [f"| form | site | {' | '.join(TARGETS)} |", "|---|---|" + "---|" * len(TARGETS)]
    reasons: dict[tuple[str, str], None] = {}
    for form in FORMS:
        rows = {situation: _row(form, situation) for situation in SITUATIONS}
        for situation, pairs in rows.items():
            cells = [_cell(pair) for pair in pairs]
            if cells == [_cell(pair) for pair in rows.get(_WIDER.get(situation, ""), [])]:
                continue
            lines.append(f"| `{form}` | {situation} | {' | '.join(cells)} |")
            reasons |= {(e.label, e.why): None for pair in pairs for e in pair}
    lines += ["", "| encoding | why |", "|---|---|"]
    return lines + [f"| {label} | {why} |" for label, why in reasons]


def _row(form: str, situation: str) -> list[tuple[Encoding, Encoding]]:
    return [encodings(form, situation, target) for target in TARGETS]


def _cell(pair: tuple[Encoding, Encoding]) -> str:
    convolution, elsewhere = pair[0].label, pair[1].label
    if convolution == elsewhere:
        return convolution
    return f"Conv: {convolution}<br>else: {elsewhere}"
