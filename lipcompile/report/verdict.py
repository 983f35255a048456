"""The first thing that a report says, and what nobody may conclude from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lipcompile.report.blocks import Tone
from lipcompile.report.evidence import Content, Evidence
from lipcompile.report.wording import difference, radius, sentence, share

_NOT_ATTACKED = (
    "No attack was run: nothing is known about robustness. What follows shows what hardening "
    "costs, not what it brings."
)
_TONES: dict[str, Tone] = {
    "improved": "good",
    "no measurable change": "neutral",
    "worse": "bad",
    "masked": "warn",
    "not attacked": "neutral",
    "nothing chosen": "neutral",
}
_HEADLINES = {
    "improved": "More robust than the original",
    "no measurable change": "No measurable change in robustness",
    "worse": "Less robust than the original",
    "masked": "The attacks were fooled: robustness is unknown",
    "not attacked": "Not attacked: nothing is known about robustness",
    "nothing chosen": "No setting was chosen",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a reader takes home.

    Attributes:
        word: In the words of the result that decides.
        headline: The same in a short sentence.
        text: What it rests on, in one or two sentences.
        tone: Colour; the word says the same without it.
        source: Which result decided: audit, sweep, verify or harden.
    """

    word: str
    headline: str
    text: tuple[str, ...]
    tone: Tone
    source: str

    def to_json(self) -> dict[str, object]:
        return {
            "word": self.word,
            "headline": self.headline,
            "text": list(self.text),
            "source": self.source,
        }


def decide(evidence: Evidence) -> Verdict:
    """The audit's verdict; without one the sweep's; then verify's; then harden's."""
    if evidence.audit and not evidence.audit_of_sweep:
        return _attacked(evidence.audit, evidence.audit["verdict"], "audit")
    if evidence.sweep:
        return _swept(evidence, evidence.sweep)
    if evidence.verify:
        return _verified(evidence.verify)
    return _make("not attacked", (_NOT_ATTACKED,), "harden")


def _make(word: str, text: tuple[str, ...], source: str) -> Verdict:
    headline = _HEADLINES.get(word, word[:1].upper() + word[1:])
    return Verdict(word, headline, text, _TONES.get(word, "neutral"), source)


def _swept(evidence: Evidence, sweep: Content) -> Verdict:
    why = (sentence(sweep["why"]),) if sweep["why"] else ()
    beyond = (evidence.beyond_budget,) if evidence.beyond_budget else ()
    if evidence.audit and sweep["chosen"]:
        found = _attacked(evidence.audit, sweep["verdict"], "sweep")
        made = _make(found.word, (*found.text, *beyond, *why), "sweep")
    else:
        not_attacked = (_NOT_ATTACKED,) if sweep["verdict"] == "not attacked" else ()
        made = _make(sweep["verdict"], (*beyond, *why, *not_attacked), "sweep")
    return replace(made, tone="warn") if beyond and made.tone != "bad" else made


def _verified(verify: Content) -> Verdict:
    headline = verify["verdict"][:1].upper() + verify["verdict"][1:]
    tone: Tone = "neutral" if verify["holds"] else "bad"
    return Verdict(verify["verdict"], headline, (_NOT_ATTACKED,), tone, "verify")


def _attacked(audit: Content, word: str, source: str) -> Verdict:
    worst = audit["worst_case_difference"]
    before, after = (
        share(audit[role]["worst_case_accuracy"]) for role in ("original", "hardened")
    )
    measured = (
        f"Worst-case accuracy under every attack, {radius(audit['budget'])}: {after} "
        f"hardened, {before} original; difference {difference(worst)}."
    )
    return _make(word, (measured, *_meaning(audit, word)), source)


def _meaning(audit: Content, word: str) -> tuple[str, ...]:
    worst = audit["worst_case_difference"]
    failed = sum(check["passed"] is False for check in audit["masking_checks"])
    match word:
        case "masked":
            alone = audit["worst_case_alone"]
            checks = "1 masking check" if failed == 1 else f"{failed} masking checks"
            return (
                f"{checks} failed: attacks were fooled rather than resisted. The worst case "
                "of the hardened model is only an upper bound, and says nothing in its favour "
                f"(by itself it would say: {alone}).",
            )
        case "no measurable change":
            return (
                f"{worst['n']} images cannot tell a smaller difference than this interval "
                "from none; it is no proof that the two are equal.",
            )
        case "improved":
            return (_IMPROVED,)
        case _:
            return ()


def cautions(evidence: Evidence) -> tuple[str, ...]:
    """What the numbers of this report do not show."""
    found = list(_COMMON)
    if evidence.audit:
        found = [*_OF_ATTACKS, *found]
    if evidence.sweep:
        found.append(_OF_SWEEP)
    return tuple(found)


_IMPROVED = (
    "The difference was found with these attacks, on these images, within this radius. A "
    "stronger attack can take it away; it is no certificate."
)
_OF_ATTACKS = (
    "A gain under white-box attacks alone is no gain in robustness: forged functions spoil "
    "gradients. Only the worst case over every path counts.",
    "Worst-case accuracy is an upper bound: an image that no attack broke may still be broken "
    "by another one.",
    'Where a masking check failed the verdict is "masked": the attacks did not measure what '
    "they seem to, whatever the accuracies are.",
)
_COMMON = (
    "Suppressed inputs and smaller singular values are properties of the layers. They "
    "do not show that the model is harder to fool.",
    "Intervals hold for samples that are drawn as these were. Other data, preprocessing or "
    "hardware can give other numbers.",
)
_OF_SWEEP = (
    "The setting was chosen on one part of the data, so its numbers there are too good by "
    "the luck of the choice. Those of the held-out part are the ones to quote."
)
