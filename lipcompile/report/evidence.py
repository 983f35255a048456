"""The results that a report rests on, and the questions that several of them answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from lipcompile.documents import Document, certified_models
from lipcompile.report.wording import hardening, views
from lipcompile.unprintable import shown

Content = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Results about one model.

    Attributes:
        harden: Result of `harden`, or None.
        sweep: Of `sweep`.
        audit: Of `audit`, or the one that the sweep ended with.
        verify: Of `verify`.
        certify: Of `certify`.
        files: Kind, file name and version of every document.
        audit_of_sweep: The audit is the one that the sweep ended with.
    """

    harden: Content | None
    sweep: Content | None
    audit: Content | None
    verify: Content | None
    certify: Content | None
    files: tuple[tuple[str, str, str], ...]
    audit_of_sweep: bool

    @classmethod
    def of(cls, documents: Sequence[Document]) -> Evidence:
        """From documents of different kinds, whose shapes were checked."""
        found = {one.kind: printable(one.content) for one in documents}
        sweep = found.get("sweep")
        inner = ((sweep or {}).get("confirmed") or {}).get("audit")
        own = found.get("audit")
        files = tuple(
            (one.kind, printable(one.name), printable(one.content["version"]))
            for one in documents
        )
        audit = own if own is not None else inner
        return cls(
            found.get("harden"),
            sweep,
            audit,
            found.get("verify"),
            found.get("certify"),
            files,
            own is None and inner is not None,
        )

    @property
    def confirmed(self) -> Content | None:
        """What the sweep measured of the chosen setting on images that did not choose it."""
        confirmed: Content | None = (self.sweep or {}).get("confirmed")
        return confirmed

    @property
    def chosen(self) -> Content | None:
        """The sweep's setting that was chosen."""
        for setting in (self.sweep or {}).get("settings", ()):
            if setting["name"] == self.sweep["chosen"]:  # type: ignore[index]
                found: Content = setting
                return found
        return None

    @property
    def things(self) -> str:
        """What the sweep was run on: images, or samples where nothing else is known."""
        labelled = self.sweep is None or self.sweep["data"]["labelled"]
        return "images" if labelled else "samples"

    @property
    def attacked(self) -> str | None:
        """On how many images the sweep attacked a setting; None where it attacked none."""
        settings = (self.sweep or {}).get("settings", ())
        found = sorted(
            {s["worst_case"]["difference"]["n"] for s in settings if s["worst_case"]}
        )
        return " to ".join(dict.fromkeys(map(str, (found[0], found[-1])))) if found else None

    @property
    def beyond_budget(self) -> str | None:
        """That the chosen setting breaks a limit on the part that did not choose it."""
        if self.confirmed is None or self.confirmed["within_budget"]:
            return None
        return (
            f"On the held-out {self.things} the chosen setting is NOT within the budget: what "
            "it was chosen for does not hold there."
        )

    @property
    def certified(self) -> dict[str, Content]:
        """What was certified of "original" and "hardened", or of one of them."""
        return certified_models(self.certify) if self.certify else {}

    @property
    def certified_alone(self) -> str | None:
        """The name of the one model that this is about, where nothing names another one."""
        if any((self.harden, self.sweep, self.audit, self.verify)):
            return None
        names = [str(one["name"]) for one in self.certified.values()]
        return names[0] if len(names) == 1 else None

    @property
    def original_name(self) -> str:
        if self.audit:
            return str(self.audit["original"]["name"])
        if self.verify:
            return str(self.verify["original"])
        if self.harden:
            return str(self.harden["model"])
        if self.sweep:
            return str(self.sweep["model"]["name"])
        if "original" in self.certified:
            return str(self.certified["original"]["name"])
        return str(self.certified["hardened"]["source"])[:19]  # all that is known of it

    @property
    def hardened_name(self) -> str | None:
        if self.audit:
            return str(self.audit["hardened"]["name"])
        if self.verify:
            return str(self.verify["hardened"])
        if self.harden and self.harden["output"]:
            return PurePath(self.harden["output"]).name
        if "hardened" in self.certified:
            return str(self.certified["hardened"]["name"])
        return None

    @property
    def failures(self) -> tuple[str, ...]:
        """What must be seen before anything else: gates and checks that do not hold."""
        found = [
            f"{kind} failed: {gate}"
            for kind in ("sweep", "audit", "verify", "certify", "harden")
            for gate in (getattr(self, kind) or {}).get("failed_gates") or ()
        ]
        if self.verify and not self.verify["holds"] and not self.verify["failed_gates"]:
            names = [c["name"] for c in self.verify["checks"] if c["holds"] is False]
            found.append(f"verify failed: {self.verify['verdict']}: {', '.join(names)}")
        return tuple(dict.fromkeys(found))

    @property
    def disagreements(self) -> tuple[str, ...]:
        """Where results are about different settings of the same model."""
        harden = self._other_setting()
        others = {
            "audit": None if self.audit_of_sweep else (self.audit or {}).get("hardened"),
            "harden": None if harden else self.harden,
            "verify": self.verify,
            "certify": self.certified.get("hardened"),
        }
        inner = (self.confirmed or {}).get("audit")
        chosen = inner["hardened"]["digest"] if inner else None
        digests = {kind: (result or {}).get("digest") for kind, result in others.items()}
        return (
            *harden,
            *(
                f"The result of {kind} is about another hardened model than the one that the "
                f"sweep chose ({str(digest)[:19]} against {str(chosen)[:19]})."
                for kind, digest in digests.items()
                if chosen is not None and digest is not None and digest != chosen
            ),
        )

    def _other_setting(self) -> tuple[str, ...]:
        """That harden did something else than the setting that the sweep chose."""
        if self.harden is None or self.sweep is None:
            return ()
        done = hardening(self.harden)
        if self.sweep["chosen"] is None:
            return (f"The sweep chose no setting; the result of harden is about: {done}.",)
        if self.chosen is None or _setting(self.harden) == _setting(self.chosen):
            return ()
        chosen = hardening(self.chosen)
        details = f"{done}, and not {chosen}" if done != chosen else "layers differ in c_r"
        return (
            "The result of harden is about another setting than the one that the sweep chose, "
            f"{self.chosen['name']}: {details}.",
        )


def _setting(found: Content) -> tuple[object, ...]:
    """What makes two hardened models the same, of a harden result or a sweep's setting."""
    keys = ("variant", "form", "c_r", "c_r_by_layer", "zero_rate")
    return (*(found[key] for key in keys), views(found))


def printable(value: Any) -> Any:
    """The same JSON value without characters that no page can show."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {printable(key): printable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [printable(one) for one in value]
    return value
