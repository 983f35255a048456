"""The first thing that a report says, and what nobody may conclude from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lipcompile.report.blocks import Tone
from lipcompile.report.evidence import Content, Evidence
from lipcompile.report.wording import (
    certified_by,
    certified_within,
    difference,
    radius,
    sentence,
    share,
)

_NOT_ATTACKED = (
    "No attack was run: nothing is known about robustness. What follows shows what hardening "
    "costs, not what it brings."
)
_ONLY_CERTIFIED = (
    "No attack was run: what holds beyond the certificates is not known, and more certified "
    "images do not show a model that is harder to attack."
)
_TONES: dict[str, Tone] = {
    "improved": "good",
    "no measurable change": "neutral",
    "worse": "bad",
    "masked": "warn",
    "not attacked": "neutral",
    "nothing chosen": "neutral",
    "certified": "neutral",
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
        source: Which result decided: audit, sweep, verify, certify or harden.
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
    """The audit's verdict; without one the sweep's; then certify's, verify's, harden's.

    A file that is not what it says goes before its certificates.
    """
    if evidence.audit and not evidence.audit_of_sweep:
        return _attacked(evidence.audit, evidence.audit["verdict"], "audit")
    if evidence.sweep:
        return _swept(evidence, evidence.sweep)
    if evidence.certify and (evidence.verify is None or evidence.verify["holds"]):
        return _certified(evidence, evidence.certify)
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
        told = _ONLY_CERTIFIED if evidence.certify else _NOT_ATTACKED
        not_attacked = (told,) if sweep["verdict"] == "not attacked" else ()
        made = _make(sweep["verdict"], (*beyond, *why, *not_attacked), "sweep")
    return replace(made, tone="warn") if beyond and made.tone != "bad" else made


def _verified(verify: Content) -> Verdict:
    headline = verify["verdict"][:1].upper() + verify["verdict"][1:]
    tone: Tone = "neutral" if verify["holds"] else "bad"
    return Verdict(verify["verdict"], headline, (_NOT_ATTACKED,), tone, "verify")


def _certified(evidence: Evidence, certify: Content) -> Verdict:
    """Says what was proven of each model, and compares nothing in words."""
    found = {role: one["certified"] for role, one in evidence.certified.items()}
    shares = {role: share(one["value"]) for role, one in found.items() if one}
    if len(shares) > 1:
        told = ", ".join(f"{value} {role}" for role, value in shares.items())
    else:
        told = next(iter(shares.values()), "")
    where = certified_within(certify)
    headline = f"Certified at {where}: {told}" if told else "Certificates without a radius"
    gap = certify["difference"]
    text = [
        f"Proven by {certified_by(certify)}, on {certify['data']['images']} images"
        + (f"; difference {difference(gap)}." if gap else ".")
    ]
    return Verdict(
        "certified", headline, (*text, _ONLY_CERTIFIED), _TONES["certified"], "certify"
    )


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
    if evidence.certify:
        found = [*_OF_CERTIFICATES, *found]
        smoothed = evidence.certify["method"] == "smoothing"
        found.insert(0, _OF_SMOOTHING if smoothed else _OF_BOUNDS)
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
_OF_BOUNDS = (
    "Certificates by Lipschitz bounds hold for the network in real numbers. The deployed file "
    "computes in floating point, and its rounding is not covered."
)
_OF_SMOOTHING = (
    "Certificates by randomized smoothing are about the smoothed model, which votes over "
    "noisy copies of an image; the deployed file alone has none of them. Each image's holds "
    "with probability 1 - alpha, so of many some are expected to be wrong."
)
_OF_CERTIFICATES = (
    "Certified radii are l2 radii in pixels of [0, 1]. They say nothing about other changes "
    "of an image, such as larger, rotated or blurred ones.",
    "An image without a certificate is not shown to be breakable: certified accuracy is a "
    "lower bound. A larger certified radius is no proof of resistance to attacks beyond it.",
)
_OF_SWEEP = (
    "The setting was chosen on one part of the data, so its numbers there are too good by "
    "the luck of the choice. Those of the held-out part are the ones to quote."
)
