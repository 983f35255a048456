"""Where the numbers come from, and what they do not say."""

from __future__ import annotations

import json
from collections.abc import Iterator

from lipcompile.report.blocks import Block, Bullets, Facts, Heading, Prose, Section, Table
from lipcompile.report.evidence import Content, Evidence
from lipcompile.report.verdict import cautions
from lipcompile.report.wording import MISSING, of_available


def provenance(evidence: Evidence) -> Section:
    """Digests, versions, seeds, data, calibration, settings."""
    blocks: list[Block] = [
        Table(("result", "file", "LipCompile"), evidence.files),
        Facts(tuple(_models(evidence))),
    ]
    if evidence.audit:
        blocks += [Heading("Audit"), Facts(tuple(_audit(evidence.audit)))]
    if evidence.sweep:
        blocks += [Heading("Sweep"), Facts(tuple(_sweep(evidence, evidence.sweep)))]
    if evidence.certify:
        blocks += [Heading("Certificates"), Facts(tuple(_certify(evidence.certify)))]
    calibration = _calibration_of(evidence)
    if calibration:
        blocks += [Heading("Calibration"), Facts(tuple(_calibration(calibration)))]
    return Section("provenance", "Provenance", tuple(blocks))


def _models(evidence: Evidence) -> Iterator[tuple[str, str]]:
    harden, sweep, audit, verify = (
        evidence.harden or {},
        evidence.sweep or {},
        evidence.audit or {},
        evidence.verify or {},
    )
    certified = evidence.certified
    original = (
        harden.get("source")
        or verify.get("source")
        or audit.get("original", {}).get("digest")
        or sweep.get("model", {}).get("digest")
        or certified.get("original", {}).get("digest")
        or certified.get("hardened", {}).get("source")
    )
    hardened = (
        harden.get("digest")
        or verify.get("digest")
        or audit.get("hardened", {}).get("digest")
        or certified.get("hardened", {}).get("digest")
    )
    named = evidence.certified_alone is None or "original" in certified
    yield (
        f"original: {evidence.original_name}" if named else "original",
        str(original or MISSING),
    )
    if hardened:
        yield f"hardened: {evidence.hardened_name or MISSING}", str(hardened)
    if verify:
        yield "verified on", str(verify["data"] or "nothing was run")
    if harden and harden["target"]:
        yield "target", str(harden["target"])


def _audit(audit: Content) -> Iterator[tuple[str, str]]:
    data, run = audit["data"], audit["run"]
    yield "images", of_available(data["images"], data["available"], data["name"])
    yield "digest of the images", str(data["digest"])
    yield "normalisation", _flat(data["normalisation"])
    yield "run", _flat(run)
    attacks = audit["attacks"]["attacks"]
    yield f"attacks: {audit['attacks']['name']}", "; ".join(_flat(one) for one in attacks)
    yield "versions", _flat(audit["versions"])
    yield "took", f"{audit['seconds']:g} s"


def _certify(certify: Content) -> Iterator[tuple[str, str]]:
    data = certify["data"]
    yield "images", of_available(data["images"], data["available"], data["name"])
    yield "digest of the images", str(data["digest"])
    yield "normalisation", _flat(data["normalisation"])
    yield "run", _flat(certify["run"])
    if certify["smoothing"]:
        yield "smoothing", _flat(certify["smoothing"])
    yield "versions", _flat(certify["versions"])
    yield "took", f"{certify['seconds']:g} s"


def _sweep(evidence: Evidence, sweep: Content) -> Iterator[tuple[str, str]]:
    data = sweep["data"]
    read = of_available(data["images"], data["available"], data["name"])
    yield evidence.things, f"{read}, seed {data['seed']}"
    yield f"digest of the {evidence.things}", str(data["digest"])
    yield "budget", _flat(sweep["budget"])
    if sweep["attack"]:
        yield "attack", _flat(sweep["attack"] | {"images": evidence.attacked or "none"})
    if sweep["command"]:
        yield "command of the chosen setting", str(sweep["command"])
    yield "took", f"{sweep['seconds']:g} s"


def _calibration_of(evidence: Evidence) -> Content | None:
    for result in (evidence.harden, evidence.sweep):
        if result and result.get("calibration"):
            found: Content = result["calibration"]
            return found
    return None


def _calibration(found: Content) -> Iterator[tuple[str, str]]:
    data = found["data"]
    state = "" if found["complete"] else "; interrupted, not all samples were seen"
    yield "data", f"{data['samples']} samples of '{data['label']}' ({data['kind']}){state}"
    yield "digest of the data", str(data["digest"])
    left_out = len(data["unreadable"]), len(data["nonfinite"])
    if any(left_out):
        yield "left out", f"{left_out[0]} unreadable and {left_out[1]} non-finite samples"
    yield "preprocessing", _flat(found["preprocess"])
    for name, limits in found["input_range"].items():
        yield f"range of input '{name}'", f"{limits[0]} to {limits[1]}"
    yield "run by", str(found["runtime"])


def _flat(value: object) -> str:
    """ "steps 20, step 0.1": an object in one line."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_inner(one)}" for key, one in value.items())
    return _inner(value)


def _inner(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def notes(evidence: Evidence) -> Section:
    """The results' own notes, disagreements between the results, and what not to conclude."""
    results = (evidence.sweep or {}, evidence.audit or {}, evidence.certify or {})
    own = tuple(note for result in results for note in result.get("notes") or ())
    blocks: list[Block] = []
    if own or evidence.disagreements:
        blocks.append(Bullets((*evidence.disagreements, *own)))
    blocks += [Prose("What these numbers do not show:"), Bullets(cautions(evidence))]
    return Section("notes", "Notes", tuple(blocks))
