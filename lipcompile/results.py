"""What `harden` did: it prints itself, and becomes JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lipcompile import model_io
from lipcompile.abstaining.head import Head
from lipcompile.calibration.table import CalibrationTable
from lipcompile.checks import Agreement
from lipcompile.documents import header
from lipcompile.ensembles.plan import Ensemble
from lipcompile.findings import Finding, failures
from lipcompile.forging import Forging
from lipcompile.linear_layers import LinearLayer, Refusal
from lipcompile.measure import LatencyRatio
from lipcompile.passes.drop_dead_channels import CompactionReport
from lipcompile.passes.zero_columns import ColumnPlan
from lipcompile.placement import SitePlan, Threshold
from lipcompile.request import Request
from lipcompile.rescaling.plan import Rescaling
from lipcompile.sites import Selection, Site
from lipcompile.text import count, number, percent, table
from lipcompile.zeroing import Zeroing

_LOW_AGREEMENT = 0.95  # below this share the result is said to be doubtful


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One linear layer and what becomes of it.

    Attributes:
        layer: Name of the layer.
        op_type: Its operator.
        selected: Whether it is, or would be, forged.
        tensor: The site that feeds it; None for a refused layer.
        dtype: Element type of the site.
        weight: How its weight is stored.
        absmax: Calibrated max |x| at the site, if known.
        c_r: Relative threshold, if known.
        c: Threshold, if known.
        encoding: Operators that compute the forged function, if chosen.
        code: Refusal in one word; None for a selected layer.
        reason: Refusal in one clause.
    """

    layer: str
    op_type: str
    selected: bool
    tensor: str | None = None
    dtype: str | None = None
    weight: str | None = None
    absmax: float | None = None
    c_r: float | None = None
    c: float | None = None
    encoding: str | None = None
    code: str | None = None
    reason: str | None = None


def layer_rows(
    selection: Selection, done: Forging | Zeroing | None = None
) -> tuple[LayerRow, ...]:
    """One row per linear layer, in graph order: as selected, or as rewritten."""
    refusals = list(selection.refusals)
    decided: dict[str, LayerRow] = {}
    if isinstance(done, Forging):
        decided = {x.name: _forged(x, p) for p in done.plans for x in p.site.layers}
    elif isinstance(done, Zeroing):
        refusals += done.refusals
        of_layer = {x.name: t for t in done.thresholds for x in t.site.layers}
        decided = {p.layer.name: _zeroed(p, of_layer[p.layer.name]) for p in done.plans}
    left = {refusal.layer for refusal in refusals}
    rows = [(refusal.position, _refused(refusal)) for refusal in refusals]
    for site in selection.sites:
        for layer in site.layers:
            if layer.name not in left:
                row = decided.get(layer.name) or _selected(layer, site)
                rows.append((layer.position, row))
    return tuple(row for _, row in sorted(rows, key=lambda item: item[0]))


def _refused(refusal: Refusal) -> LayerRow:
    return LayerRow(
        refusal.layer, refusal.op_type, False, code=refusal.code, reason=refusal.reason
    )


def _selected(layer: LinearLayer, site: Site) -> LayerRow:
    return LayerRow(
        layer.name,
        layer.node.op_type,
        True,
        tensor=site.tensor,
        dtype=site.dtype,
        weight=layer.weight_form,
    )


def _with_threshold(layer: LinearLayer, threshold: Threshold, encoding: str) -> LayerRow:
    return replace(
        _selected(layer, threshold.site),
        absmax=threshold.absmax,
        c_r=threshold.c_r,
        c=threshold.c,
        encoding=encoding,
    )


def _forged(layer: LinearLayer, plan: SitePlan) -> LayerRow:
    return _with_threshold(layer, plan.threshold, plan.encoding.label)


def _zeroed(plan: ColumnPlan, threshold: Threshold) -> LayerRow:
    label = f"{len(plan.columns)} of {plan.count} columns zeroed"
    return _with_threshold(plan.layer, threshold, label)


@dataclass(frozen=True, slots=True)
class HardenResult:
    """What `harden` did.

    Attributes:
        model: The hardened model, as the kind of object that was handed in; for a path, the
            path of the file that was written, or None after a dry run. None as well where a
            gate does not hold.
        name: Name of the original.
        source: Digest of what the original computes.
        output: The file that was written, if any.
        files: Every file that was written, the model first.
        request: What was asked for: variant, form, c_r, target.
        table: The calibration table; None for variant "none".
        rows: One row per linear layer, in graph order.
        compaction: Channels that were removed, or could not be, where that was asked for.
        ensemble: What stands around the model, if anything.
        rescaling: How its weights were scaled, if they were.
        abstention: What its abstain head says, if it has one.
        agreement: Outputs against the original's, or None without calibration data.
        inlined: Local functions that were inlined.
        dry_run: Nothing was written.
        latency: Of the hardened model over the original's, where a gate asked for it.
        gates: Conditions of the user, if any; no model is written unless all of them hold.
    """

    model: Any
    name: str
    source: str
    output: Path | None
    files: tuple[Path, ...]
    request: Request
    table: CalibrationTable | None
    rows: tuple[LayerRow, ...]
    compaction: CompactionReport | None
    ensemble: Ensemble | None
    rescaling: Rescaling | None
    abstention: Head | None
    agreement: Agreement | None
    inlined: tuple[str, ...] = ()
    dry_run: bool = False
    latency: LatencyRatio | None = None
    gates: tuple[Finding, ...] = ()

    @property
    def failed_gates(self) -> tuple[str, ...]:
        """Gates that do not hold, in words."""
        return failures(self.gates)

    def findings(self) -> tuple[Finding, ...]:
        """What was checked before anything was written, and every gate."""
        same = "as those of the original"
        if self.abstention is not None:
            same += ", but for the abstain head"
        checks = [Finding("signature and structure", True, same)]
        if self.table is not None:
            checks.append(Finding("layers", None, self._layers_line()))
        finite = None if self.agreement is None else True  # a result is made only where it is
        n = "no" if self.agreement is None else f"{self.agreement.samples}"
        checks.append(Finding("finite outputs", finite, f"on {n} calibration samples"))
        return (*checks, Finding("agreement", None, self._agreement_line()), *self.gates)

    @property
    def digest(self) -> str | None:
        """Digest of what the hardened model computes; None where there is none (a dry run)."""
        return None if self.model is None else model_io.load(self.model).digest

    def to_json(self) -> dict[str, Any]:
        return {
            **header("harden"),
            "model": self.name,
            "source": self.source,
            "digest": self.digest,
            "output": str(self.output) if self.output else None,
            "files": [str(path) for path in self.files],
            **self.request.to_json(),
            "layers": [asdict(row) for row in self.rows],
            "compaction": self.compaction.to_json() if self.compaction else None,
            "agreement": self.agreement.to_json() if self.agreement else None,
            "latency": asdict(self.latency) if self.latency else None,
            "failed_gates": list(self.failed_gates),
            "inlined": list(self.inlined),
            "dry_run": self.dry_run,
            "ensemble": self.ensemble.to_json() if self.ensemble else None,
            "lipschitz": self.rescaling.to_json() if self.rescaling else None,
            "abstain": self.abstention.to_json() if self.abstention else None,
            "calibration": self._calibration(),
        }

    def _calibration(self) -> dict[str, Any] | None:
        if self.table is None:
            return None
        fields = self.table.to_json()
        return {k: v for k, v in fields.items() if k not in ("sites", "counts")}

    def __str__(self) -> str:
        parts = [f"{self.name}: {self.request}"]
        if self.table is None:
            return "\n".join([*parts, *self._summary()])
        parts += [*self.table.summary(), ""]
        parts += table(
            ("layer", "operator", "input", "absmax", "c", "encoding"),
            [self._cells(row) for row in self.rows],
        )
        return "\n".join([*parts, "", *self._summary()])

    @staticmethod
    def _cells(row: LayerRow) -> tuple[str, ...]:
        if not row.selected:
            return (
                row.layer,
                row.op_type,
                "",
                "",
                "",
                f"left alone: {row.code} ({row.reason})",
            )
        assert row.tensor and row.encoding and row.absmax is not None and row.c is not None
        values = (number(row.absmax), number(row.c))
        return (row.layer, row.op_type, row.tensor, *values, row.encoding)

    def _summary(self) -> list[str]:
        lines = [] if self.table is None else [self._layers_line()]
        if self.compaction is not None:
            lines.append(str(self.compaction))
        beside = {
            "ensemble": self.ensemble,
            "rescaled": self.rescaling,
            "abstains": self.abstention,
            "local functions inlined": ", ".join(self.inlined) or None,
        }
        lines += [f"{what}: {done}" for what, done in beside.items() if done is not None]
        lines.append(self._agreement_line())
        top1 = self.agreement.top1 if self.agreement is not None else None
        if top1 is not None and top1 < _LOW_AGREEMENT:
            advice = "measure its accuracy" if self.ensemble else "try a smaller --cr"
            lines.append(f"warning: the hardened model often disagrees; {advice}")
        if self.agreement is not None and self.agreement.original_has_nan:
            lines.append("warning: the original model gives NaN on calibration data")
        if self.latency is not None:
            lines.append(f"latency, hardened / original: {self.latency}")
        if self.dry_run:
            lines.append("dry run: nothing was written")
        elif self.failed_gates:
            lines.append("no model was written, since a gate does not hold")
        lines += [f"gate failed: {gate}" for gate in self.failed_gates]
        for path in self.files:
            lines.append(f"wrote '{path}' ({path.stat().st_size:,} bytes)")
        return lines

    def _layers_line(self) -> str:
        chosen = [row for row in self.rows if row.selected]
        sites = {row.tensor for row in chosen}
        left = len(self.rows) - len(chosen)
        what = "forged" if self.request.variant == "forged" else "looked at"
        return f"{count(chosen, 'layer')} at {count(sites, 'site')} {what}, {left} left alone"

    def _agreement_line(self) -> str:
        if self.agreement is None:
            return "agreement with the original: not measured (no calibration data was run)"
        n = self.agreement.samples
        difference = f"largest output difference {percent(self.agreement.max_difference)}"
        if self.agreement.integer_agreement is not None:
            equal = percent(self.agreement.integer_agreement)
            difference += f"; {equal} of the elements of integer outputs are equal"
        if self.agreement.top1 is None:
            return f"on {n} calibration samples: {difference} (no class scores to compare)"
        where = f"top-1 agreement with the original on {n} calibration samples"
        return f"{where}: {percent(self.agreement.top1)}; {difference}"
