"""The results that a report rests on, and the questions that several of them answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from lipcompile.documents import Document

# Control characters break XML, lone surrogates UTF-8, and bidirectional overrides make a name
# look like another one.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufffe\uffff]"
)
Content = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Results about one model.

    Attributes:
        harden: Result of `harden`, or None.
        sweep: Of `sweep`.
        audit: Of `audit`, or the one that the sweep ended with.
        verify: Of `verify`.
        files: Kind, file name and version of every document.
        audit_of_sweep: The audit is the one that the sweep ended with.
    """

    harden: Content | None
    sweep: Content | None
    audit: Content | None
    verify: Content | None
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
    def original_name(self) -> str:
        if self.audit:
            return str(self.audit["original"]["name"])
        if self.verify:
            return str(self.verify["original"])
        if self.harden:
            return str(self.harden["model"])
        assert self.sweep
        return str(self.sweep["model"]["name"])

    @property
    def hardened_name(self) -> str | None:
        if self.audit:
            return str(self.audit["hardened"]["name"])
        if self.verify:
            return str(self.verify["hardened"])
        if self.harden and self.harden["output"]:
            return PurePath(self.harden["output"]).name
        return None

    @property
    def failures(self) -> tuple[str, ...]:
        """What must be seen before anything else: gates and checks that do not hold."""
        found = [
            f"{kind} failed: {gate}"
            for kind in ("sweep", "audit", "verify", "harden")
            for gate in (getattr(self, kind) or {}).get("failed_gates") or ()
        ]
        if self.verify and not self.verify["holds"] and not self.verify["failed_gates"]:
            names = [c["name"] for c in self.verify["checks"] if c["holds"] is False]
            found.append(f"verify failed: {self.verify['verdict']}: {', '.join(names)}")
        return tuple(dict.fromkeys(found))

    @property
    def disagreements(self) -> tuple[str, ...]:
        """Where results are about different settings of the same model."""
        inner = (self.confirmed or {}).get("audit")
        if not inner or not (self.harden or self.verify or not self.audit_of_sweep):
            return ()
        chosen = inner["hardened"]["digest"]
        others = {
            "audit": (self.audit or {})["hardened"]["digest"],
            "harden": (self.harden or {}).get("digest"),
            "verify": (self.verify or {}).get("digest"),
        }
        return tuple(
            f"The result of {kind} is about another hardened model than the one that the "
            f"sweep chose ({str(digest)[:19]} against {str(chosen)[:19]})."
            for kind, digest in others.items()
            if digest is not None and digest != chosen
        )


def printable(value: Any) -> Any:
    """The same JSON value without characters that no page can show."""
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {printable(key): printable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [printable(one) for one in value]
    return value
