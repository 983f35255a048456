"""inspect(): every linear layer of a model, with the decision and its reason."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lipcompile import model_io
from lipcompile.abstaining.wrapping import take_off
from lipcompile.changing import Change
from lipcompile.ensembles.wrapping import unwrap
from lipcompile.ops import MARK
from lipcompile.records import is_hardened
from lipcompile.results import LayerRow, layer_rows
from lipcompile.sites import Selector, find_sites
from lipcompile.text import count, table


def inspect(model: object, *, selector: Selector | None = None) -> Inspection:
    """Lists every linear layer with the decision and its reason; edits nothing.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model` or graphsurgeon `Graph`.
        selector: Which layers are wanted.

    Raises:
        ModelError: The model cannot be read.
        SelectionError: A pattern matches nothing.
    """
    whole = model_io.load(model)
    headless, head = take_off(whole)
    loaded, around = unwrap(headless)
    rescaling = Change.told_by(loaded.metadata).rescaling
    selection = find_sites(loaded.graph_ir, selector)
    own = {k: v for k, v in whole.metadata.items() if k.startswith(f"{MARK}.")}
    return Inspection(
        loaded.name,
        whole.digest,
        loaded.opset,
        selection.rule,
        layer_rows(selection),
        loaded.inlined,
        str(around) if around is not None else None,
        own,
        str(rescaling) if rescaling is not None else None,
        str(head) if head is not None else None,
    )


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect` finds in a model.

    Attributes:
        model: Name of the model.
        digest: Digest of what it computes.
        opset: Version of the default operator set.
        rule: Selection rule.
        rows: One row per linear layer, in graph order.
        inlined: Local functions that hardening would inline.
        ensemble: What stands around the model, in words; None where nothing does. The layers
            are those of the model inside.
        provenance: `lipcompile.*` metadata, for a hardened model.
        rescaled: How its weights were scaled, in words, if they were.
        abstains: What its abstain head says, in words, if it has one.
    """

    model: str
    digest: str
    opset: int
    rule: str
    rows: tuple[LayerRow, ...]
    inlined: tuple[str, ...]
    ensemble: str | None
    provenance: dict[str, str]
    rescaled: str | None = None
    abstains: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "digest": self.digest,
            "opset": self.opset,
            "rule": self.rule,
            "layers": [asdict(row) for row in self.rows],
            "inlined": list(self.inlined),
            "ensemble": self.ensemble,
            "rescaled": self.rescaled,
            "abstains": self.abstains,
            "provenance": self.provenance,
        }

    def __str__(self) -> str:
        chosen = [row for row in self.rows if row.selected]
        sites = {row.tensor for row in chosen}
        cells = [
            (
                row.layer,
                row.op_type,
                row.tensor or "",
                row.dtype or "",
                row.weight or "",
                "forge" if row.selected else f"leave: {row.code} ({row.reason})",
            )
            for row in self.rows
        ]
        lines = [f"{self.model}: opset {self.opset}, {self.digest[:19]}, rule {self.rule}"]
        if self.inlined:
            lines.append(f"local functions to inline: {', '.join(self.inlined)}")
        if self.ensemble is not None:
            lines.append(f"ensemble around it: {self.ensemble}")
        if self.rescaled is not None:
            lines.append(f"rescaled: {self.rescaled}")
        if self.abstains is not None:
            lines.append(f"abstains: {self.abstains}")
        if is_hardened(self.provenance):
            said = {k.removeprefix(f"{MARK}."): v for k, v in self.provenance.items()}
            form, rate = said.get("form", "?"), said.get("zero_rate")
            what = f"form {form}" if rate is None else f"variant weight, zero rate {rate}"
            lines.append(f"hardened already: {what}, c_r {said.get('c_r', '?')}")
        lines.append("")
        lines += table(("layer", "operator", "input", "type", "weight", "decision"), cells)
        left = len(self.rows) - len(chosen)
        lines += [
            "",
            f"{count(chosen, 'layer')} at {count(sites, 'site')} to forge, {left} left alone",
        ]
        return "\n".join(lines)
