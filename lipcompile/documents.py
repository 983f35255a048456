"""Results as JSON documents: what every file of ours starts with, and how it is read again.

A document is an object whose first keys say what it is:
    schema    "lipcompile.audit/1": the kind, and the version of its layout
    version   of the LipCompile that wrote it
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lipcompile.bounded_files import read_bounded
from lipcompile.errors import DataError
from lipcompile.version import __version__

Kind = Literal["harden", "audit", "sweep", "verify", "certify"]
_LAYOUT = 1  # raised when a key changes its meaning or goes
REPORT = f"lipcompile.report/{_LAYOUT}"  # what `lipcompile report` makes of documents
_MAX_BYTES = 256 << 20
_MOST_LEVELS = 64


def header(kind: Kind) -> dict[str, Any]:
    """The first keys of a document."""
    return {"schema": f"lipcompile.{kind}/{_LAYOUT}", "version": __version__}


@dataclass(frozen=True, slots=True)
class Document:
    """A result that was read from a file.

    Attributes:
        kind: Which command made it.
        name: Base name of the file, for messages.
        content: The object, as the command's result wrote it.
    """

    kind: Kind
    name: str
    content: dict[str, Any]

    @property
    def original(self) -> str | None:
        """Digest of the model before hardening."""
        match self.kind:
            case "audit":
                return self._digest("original")
            case "sweep":
                return self._digest("model")
            case "certify":
                return self._certified[0]
            case _:
                return _text(self.content.get("source"))

    @property
    def hardened(self) -> str | None:
        """Digest of the hardened model, where the document is about one."""
        match self.kind:
            case "audit":
                return self._digest("hardened")
            case "harden" | "verify":
                return _text(self.content.get("digest"))
            case "certify":
                return self._certified[1]
            case _:
                return None

    @property
    def _certified(self) -> tuple[str | None, str | None]:
        """Digests of original and hardened model of a `certify`."""
        models = certified_models(self.content)
        known = {role: _text(one.get("digest")) for role, one in models.items()}
        source = _text(models.get("hardened", {}).get("source"))
        return known.get("original", source), known.get("hardened")

    def _digest(self, key: str) -> str | None:
        """Digest of the model at `key`; None in a file that was cut or edited."""
        model = self.content.get(key)
        return _text(model.get("digest")) if isinstance(model, dict) else None


def read_document(path: Path) -> Document:
    """Reads what `harden --save-result`, or `-o` of audit, certify, sweep and verify wrote.

    Raises:
        DataError: It cannot be read, is no such document, or has another layout.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(
                f"'{path}' has {path.stat().st_size:,} bytes, which no result of LipCompile "
                "has: name the JSON that a command wrote"
            )
        content = json.loads(read_bounded(path, _MAX_BYTES))
        _check_depth(content)
    except OSError as error:
        raise DataError(
            f"'{path}' cannot be read ({error.strerror}): check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"'{path}' is no JSON ({error}): name the file that --save-result (harden) or -o "
            "(audit, certify, sweep, verify) wrote"
        ) from error
    return Document(_kind(path, content), path.name, content)


def _check_depth(content: object) -> None:
    """Raises ValueError where the content is nested more deeply than any result."""
    level = [content] if isinstance(content, dict | list) else []
    for _ in range(_MOST_LEVELS):
        if not level:
            return
        inner = [one.values() if isinstance(one, dict) else one for one in level]
        level = [x for one in inner for x in one if isinstance(x, dict | list)]
    raise ValueError(f"it is nested in more than {_MOST_LEVELS} levels, as no result is")


def _kind(path: Path, content: object) -> Kind:
    schema = content.get("schema") if isinstance(content, dict) else None
    for kind in get_args(Kind):
        if schema == f"lipcompile.{kind}/{_LAYOUT}":
            return kind  # type: ignore[no-any-return]
    if isinstance(schema, str) and schema.startswith("lipcompile.report/"):
        raise DataError(
            f"'{path}' is a report, not a result: give the results that it was made of"
        )
    if isinstance(schema, str) and schema.startswith("lipcompile."):
        assert isinstance(content, dict)
        made = content.get("version", "of unknown version")
        raise DataError(
            f"'{path}' has the layout '{schema}', written by LipCompile {made}, and "
            f"{__version__} reads layout {_LAYOUT} of {', '.join(get_args(Kind))}: run the "
            f"command again with {__version__}"
        )
    raise DataError(
        f"'{path}' does not say which result it is (no \"schema\"): it comes from an older "
        f"version of LipCompile, or from another program; run the command again with "
        f"{__version__}"
    )


def check_one_model(documents: list[Document]) -> None:
    """All documents are about one original, and about one hardened model where they name one.

    Raises:
        DataError: They are not.
    """
    for what in ("original", "hardened"):
        known = [(one, digest) for one in documents if (digest := getattr(one, what))]
        for one, digest in known[1:]:
            if digest != known[0][1]:
                raise DataError(
                    f"'{known[0][0].name}' and '{one.name}' are about different {what} models "
                    f"({known[0][1][:19]} and {digest[:19]}): give results of one model"
                )


def certified_models(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The models of a `certify` by "original" and "hardened", as far as it is about them.

    One model alone is hardened if it names the model that it was made from.
    """
    model, original = content.get("model"), content.get("original")
    if not isinstance(model, dict):
        return {}
    if isinstance(original, dict):
        return {"original": original, "hardened": model}
    return {"original" if model.get("source") is None else "hardened": model}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
