"""c_r per layer: a default, and patterns of layer names that have one of their own."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lipcompile.bounded_files import read_bounded
from lipcompile.errors import OptionError, SelectionError
from lipcompile.sites import Selection, nearest_names
from lipcompile.thresholds import parse_cr

_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class LayerCr:
    """The relative threshold of every layer.

    Attributes:
        default: c_r of layers that no pattern matches.
        patterns: Regular expressions, searched in the layer's name, and their c_r.
    """

    default: float
    patterns: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            try:
                re.compile(pattern)
            except (re.error, OverflowError, RecursionError, TypeError) as error:
                raise OptionError(
                    f"c_r pattern '{pattern}' is not a regular expression ({error}): "
                    "escape special characters with a backslash"
                ) from error

    def assign(self, selection: Selection) -> dict[str, float]:
        """c_r of every selected layer, by its name.

        Raises:
            SelectionError: A pattern matches no selected layer.
            OptionError: Two patterns match one layer.
        """
        names = [layer.name for layer in selection.layers]
        matches = {
            name: [pattern for pattern in self.patterns if re.search(pattern, name)]
            for name in names
        }
        for name, found in matches.items():
            if len(found) > 1:
                raise OptionError(
                    f"layer '{name}' has c_r set twice, by the patterns '{found[0]}' and "
                    f"'{found[1]}': make them match different layers (^ and $ help)"
                )
        used = {pattern for found in matches.values() for pattern in found}
        for pattern in self.patterns:
            if pattern not in used:
                raise _unmatched(pattern, selection, names)
        return {
            name: self.patterns[found[0]] if found else self.default
            for name, found in matches.items()
        }


def _unmatched(pattern: str, selection: Selection, names: Sequence[str]) -> SelectionError:
    for refusal in selection.refusals:
        if re.search(pattern, refusal.layer):
            return SelectionError(
                f"c_r pattern '{pattern}' matches '{refusal.layer}', which is left alone "
                f"({refusal.code}: {refusal.reason}), and no selected layer: leave the "
                "pattern out, or select the layer"
            )
    return SelectionError(
        f"c_r pattern '{pattern}' matches none of {len(names)} selected layers: "
        f"{nearest_names(pattern, names)}"
    )


def read_cr_file(path: Path) -> dict[str, float]:
    """Reads patterns and their c_r from a TOML or JSON file: `"layer4" = "2^-8"`.

    Raises:
        OptionError: Missing, not TOML or JSON, a pattern twice, or no c_r.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise OptionError(f"'{path}' is too large for a file of c_r: check the path")
        text = read_bounded(path, _MAX_BYTES).decode("utf-8-sig")
        content = _json(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise OptionError(
            f"c_r file '{path}' cannot be read ({error.strerror}): check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
        raise OptionError(
            f"c_r file '{path}' is not {kind} ({str(error)[:200]}): write lines like "
            '"layer4" = "2^-8", each pattern once'
        ) from error
    if not isinstance(content, dict) or not content:
        raise OptionError(f'c_r file \'{path}\' sets no c_r: write lines like "fc" = "2^-8"')
    return {pattern: _value(path, pattern, cr) for pattern, cr in content.items()}


def _json(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a pattern stands in it twice")
        return found

    return json.loads(text, object_pairs_hook=once)


def _value(path: Path, pattern: str, cr: object) -> float:
    if isinstance(cr, bool) or not isinstance(cr, (str, int, float)):
        raise OptionError(
            f"c_r file '{path}': '{pattern}' is set to {cr!r:.60}, and a c_r is a number or a "
            'text like "2^-8"'
        )
    try:
        return parse_cr(cr)
    except OptionError as error:
        raise OptionError(f"c_r file '{path}', '{pattern}': {error}") from error
