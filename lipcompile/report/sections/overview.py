"""What was compared, and the key numbers."""

from __future__ import annotations

from collections.abc import Iterator

from lipcompile.report.blocks import Facts, Section
from lipcompile.report.evidence import Evidence
from lipcompile.report.measures import Measure, measures_table
from lipcompile.report.wording import (
    certified_by,
    certified_within,
    hardening,
    of_available,
    radius,
)


def compared(evidence: Evidence) -> Section:
    """Models, images, radius."""
    return Section("compared", "What was compared", (Facts(tuple(_facts(evidence))),))


def _facts(evidence: Evidence) -> Iterator[tuple[str, str]]:
    if evidence.certified_alone is None or "original" in evidence.certified:
        yield "original", evidence.original_name
    if evidence.hardened_name:
        yield "hardened", evidence.hardened_name
    done = evidence.harden or evidence.chosen
    if done:
        yield "hardening", hardening(done)
    elif evidence.verify:
        yield "variant", evidence.verify["variant"]
    if evidence.audit:
        data = evidence.audit["data"]
        seed = evidence.audit["seed"]
        yield (
            "images",
            of_available(data["images"], data["available"], data["name"]) + f", seed {seed}",
        )
        yield "radius", f"{radius(evidence.audit['budget'])}, in pixels of [0, 1]"
        yield "attacks", f"preset {evidence.audit['attacks']['name']}"
    if evidence.sweep:
        data, attack = evidence.sweep["data"], evidence.sweep["attack"]
        yield (
            "sweep",
            f"{len(evidence.sweep['settings'])} settings on '{data['name']}': "
            f"{data['choosing']} {evidence.things} to choose, {data['reporting']} others to "
            "report",
        )
        if attack:
            yield (
                "attacks of the sweep",
                f"{radius(attack)}, preset {attack['preset']}, "
                + (f"{evidence.attacked} images" if evidence.attacked else "on no setting"),
            )
    if evidence.certify:
        data = evidence.certify["data"]
        images = of_available(data["images"], data["available"], data["name"])
        how = f"{certified_within(evidence.certify)}, {certified_by(evidence.certify)}"
        yield "certificates", f"{how}, {images}"


def key_numbers(found: tuple[Measure, ...]) -> Section | None:
    if not found:
        return None
    return Section("numbers", "Key numbers", (measures_table(found),))
